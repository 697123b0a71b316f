"""What a drill says about the backup, in plain words for somebody who has to answer for it."""

from __future__ import annotations

from roles.backup.result import CLOCK, Report
from roles.backup.words import date, duration, first_line, moment, one_line, shown

_LONG = 160  # characters of foreign text within a sentence


def word(report: Report) -> str:
    """The drill's end in one word or two."""
    if report.passed:
        return "Passed"
    return "Did not come to its end" if report.error else "Failed"


def verdict(report: Report) -> str:
    """What was restored, what failed first, and what would have been lost: one paragraph."""
    return " ".join([_restored(report), *(_good(report) if report.passed else _bad(report))])


def _restored(report: Report) -> str:
    node = _quoted(report.node)
    if report.backup is None:
        return f"No backup was restored on {node}."
    backup = f"The backup of {moment(report.backup.time)}"
    if report.rto is None:
        return f"{backup} did not become a chat that answers on {node}."
    return f"{backup} was restored on {node} in {duration(report.rto)}."


def _good(report: Report) -> list[str]:
    return [_checks(report), _loss(report)]


def _bad(report: Report) -> list[str]:
    out = []
    if report.error:
        where = f" in the phase “{_quoted(report.broken[0].name)}”" if report.broken else ""
        cause = _quoted(first_line(report.error)).rstrip(".")
        out.append(f"The drill stopped{where}: {cause}." if cause else f"The drill stopped{where}; no cause is known.")
    elif report.broken:
        out.append(f"The phase “{_quoted(report.broken[0].name)}” failed.")
    out.append(_checks(report))
    if not _failed(report) and report.backup:
        out.append(_age(report))
    return out


def _checks(report: Report) -> str:
    count, failed = len(report.checks), report.failed
    if not count:
        return "Nothing was checked."
    if not failed:
        return "The one check passed." if count == 1 else f"All {count} checks passed."
    first = f"“{_quoted(failed[0].name)}” must be {_value(failed[0].expected)} and was {_value(failed[0].found)}"
    if count == 1:
        return f"The one check failed: {first}."
    return f"{len(failed)} of {count} checks failed, the first of them: {first}."


def _age(report: Report) -> str:
    if report.rpo_found is None:
        return "How old the backup was is not known."
    if report.rpo_found < -CLOCK:
        return f"It is dated {duration(-report.rpo_found)} after the drill began, so a clock is wrong."
    return _loss(report)


def _loss(report: Report) -> str:
    found, promised = report.rpo_found or 0.0, duration(report.rpo_promised)
    lost = f"Had the server been lost at the time of the drill, {duration(found)} of chat would have been lost"
    if found > report.rpo_promised:
        return f"{lost}, more than promised (at most {promised})."
    return f"{lost} (promised: at most {promised})."


def _failed(report: Report) -> bool:
    """Whether anything failed but for the backup's age."""
    return bool(report.error or report.broken or report.failed or not report.checks or report.rto is None)


def meaning(report: Report) -> str:
    """What a drill that did not pass means, and how long ago one did; empty when it passed."""
    if report.passed:
        return ""
    return f"{_consequence(report)} {_last(report)}".rstrip()


def _consequence(report: Report) -> str:
    if report.failed:
        return (
            "A chat restored from this backup would not be what was backed up. "
            "Until the cause is found, do not count on this backup."
        )
    if report.backup is None or report.rto is None or not report.checks:
        return "It is not proven that the chat could be brought back after a loss of the server."
    if not _failed(report):
        if report.rpo_found is not None and report.rpo_found > report.rpo_promised:
            return "The backup can be restored, but it is older than promised. Look why there is no newer one."
        return "The backup can be restored, but how much chat would have been lost is not known. Look at the clocks."
    return (
        "Every check that was made passed, but the drill did not run as it must, so it is no proof. "
        f"Look at {_quoted(report.node)}: the restored chat may still be there."
    )


def _last(report: Report) -> str:
    for drill in report.history:
        if drill.passed:
            return f"The last drill that passed was on {date(drill.started)}."
    return "No drill on record before this one passed." if report.history else "There is no earlier drill on record."


def _quoted(text: str) -> str:
    return shown(one_line(text, _LONG))


def _value(text: str) -> str:
    return _quoted(text) or "nothing"
