"""A drill's report as one HTML page: no script, nothing loaded from anywhere. Numbers for its charts are made here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.backup import words
from roles.backup.result import CLOCK, Phase, Report, Result
from roles.backup.verdict import meaning, verdict, word

_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "backup"
_STEPS: Final = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400]
_SLOTS: Final = 16
"""The history's chart has room for at least so many drills, so that few bars are not broad ones."""


@dataclass(frozen=True)
class Mark:
    """A point on the timeline's axis."""

    at: float
    """Per cent of the width."""
    seconds: float
    """Seconds since the drill's start."""


@dataclass(frozen=True)
class Bar:
    """A phase on the timeline."""

    phase: Phase
    """The phase."""
    at: float
    """Where it begins, per cent of the width."""
    width: float
    """Per cent of the width."""


@dataclass(frozen=True)
class Timeline:
    """The phases of a drill to scale."""

    bars: tuple[Bar, ...]
    """In the order of the report."""
    marks: tuple[Mark, ...]
    """The axis."""
    answered: float | None
    """When the restored chat answered, per cent of the width; None when it never did."""


@dataclass(frozen=True)
class Column:
    """A drill in the history's chart."""

    started: float
    """Unix time."""
    rto: float | None
    """Seconds; None when the chat never answered."""
    passed: bool
    """Whether it passed."""
    now: bool
    """Whether it is the drill that this report is of."""
    at: float
    """Its left edge, per cent of the width."""
    width: float
    """Per cent of the width."""
    height: float
    """Share of the chart's height, 0 to 1."""


@dataclass(frozen=True)
class History:
    """The RTO of this drill and those before it."""

    columns: tuple[Column, ...]
    """Oldest first."""
    top: float
    """Seconds at the chart's upper edge."""


@cache
def _templates() -> Environment:
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    for one in (words.size, words.date, words.moment, words.iso, words.shown, words.one_line):
        env.filters[one.__name__] = one
    env.filters["duration"] = lambda seconds: words.duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")
    env.filters["value"] = lambda text: words.shown(words.shorten(text))
    env.filters["long"] = lambda text: words.shown(words.shorten(text, 3000, 40))
    return env


def html(report: Report) -> str:
    """The report as one page for people: the verdict in words, then numbers, phases, checks, history."""
    return (
        _templates()
        .get_template("drill.html.j2")
        .render(
            report=report,
            word=word(report),
            verdict=verdict(report),
            meaning=meaning(report),
            timeline=timeline(report),
            history=history(report),
            usual=usual(report),
            fresh=report.rpo_found is not None and -CLOCK <= report.rpo_found <= report.rpo_promised,
            checks=worst_first(report.checks),
        )
    )


def worst_first(checks: tuple[Result, ...]) -> list[Result]:
    """The checks, failed ones first, else in their order."""
    return sorted(checks, key=lambda check: check.ok)


def usual(report: Report) -> float | None:
    """The median RTO in seconds of the earlier drills that passed; None when there is none."""
    found = [drill.rto for drill in report.history if drill.passed and drill.rto is not None]
    return median(found) if found else None


def timeline(report: Report) -> Timeline:
    """The phases to scale; the axis ends with the last of them."""
    ends = [phase.started + phase.seconds for phase in report.phases]
    whole = max([*ends, report.rto or 0.0, 0.1])
    step = next((step for step in _STEPS if whole / step <= 5), whole / 4)
    bars = (
        Bar(phase, min(99.6, 100 * phase.started / whole), max(0.4, 100 * phase.seconds / whole))
        for phase in report.phases
    )
    marks = (Mark(100 * step * i / whole, step * i) for i in range(int(whole / step) + 1))
    answered = None if report.rto is None else 100 * report.rto / whole
    return Timeline(tuple(bars), tuple(marks), answered)


def history(report: Report) -> History:
    """This drill and the earlier ones as columns."""
    drills = [(drill.started, drill.rto, drill.passed, False) for drill in reversed(report.history)]
    drills.append((report.started, report.rto, report.passed, True))
    longest = max((rto or 0.0 for _, rto, _, _ in drills), default=0.0)
    top = next((float(step) for step in _STEPS if step >= longest), longest)
    slot = 100 / max(len(drills), _SLOTS)
    columns = (
        Column(started, rto, passed, now, 100 - slot * (len(drills) - i) + slot * 0.15, slot * 0.7, (rto or 0.0) / top)
        for i, (started, rto, passed, now) in enumerate(drills)
    )
    return History(tuple(columns), top)
