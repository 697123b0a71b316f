"""As fast as SSH allows? The product, Ansible and the floor on the same nodes, alternating. `make bench`.

Writes docs/benchmark-speed.md and docs/benchmark-speed.png.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.fleet import Fleet, Measure
from tests.lab.image import LAB, MORE
from tests.lab.lab import Lab
from tests.lab.site import ROOT

COUNTS = [count for count in (1, 10, 30, 60) if count <= len(MORE)]
"""How many nodes; `LAB_NODES` says how many the lab has."""
ROUNDS = {1: 7, 10: 5, 30: 5, 60: 3}
SLOW = {1: 3, 10: 2, 30: 2, 60: 1}
"""Rounds of Ansible, and of what changes something."""
REPORT = ROOT / "docs" / "benchmark-speed.md"
Found = dict[str, list[Measure]]


FLOORS = ("floor, fresh", "floor, OpenSSH's key exchange", "floor, kept")
"""What `floor.py` measures."""


def say(text: str) -> None:
    """Progress."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def floor(fleet: Fleet, found: Found) -> None:
    """One question to every node by OpenSSH."""
    (fleet.folder / "question").write_bytes(fleet.question())
    done = fleet.lab.run([sys.executable, "-m", "tests.bench.floor", str(fleet.folder), *fleet.nodes])
    assert done.returncode == 0, done.stderr
    for name, seconds in zip(FLOORS, map(float, done.stdout.split()), strict=True):
        found.setdefault(name, []).append(Measure(seconds, 0, 0, 0, 0, 1))


def one_size(lab: Lab, folder: Path, count: int) -> Found:
    """Every figure for one number of nodes."""
    found: Found = {}

    def note(name: str, run: Callable[[], Measure]) -> None:
        found.setdefault(name, []).append(got := run())
        say(f"{count} nodes, {name}: {got.seconds:.2f} s (gitlab-ctl {got.control:.2f} s)")

    fleet = Fleet(lab, folder, count)
    for _ in range(SLOW[count]):
        fleet.bare()
        note("c ours", lambda: fleet.ours("deploys/site.py"))
        fleet.for_ansible()
        fleet.bare()
        note("c Ansible", lambda: fleet.ansible())
    fleet.ours("deploys/site.py")
    for number in range(SLOW[count]):
        fleet.say(2 * number + 1)
        note("b ours", lambda: fleet.ours("deploys/site.py"))
        fleet.say(2 * number + 2)
        fleet.for_ansible()
        note("b Ansible", lambda: fleet.ansible("-e", '{"stop": true}'))
    fleet.ours("deploys/site.py")
    for number in range(ROUNDS[count]):
        floor(fleet, found)
        note("pyinfra alone", lambda: fleet.pyinfra("plain.py", "exec", "--", "true"))
        note("a ours", lambda: fleet.ours("deploys/site.py"))
        note("d ours", lambda: fleet.ours("deploys/verify.py"))
        if number < SLOW[count]:
            note("a Ansible", lambda: fleet.ansible())
            note("d Ansible", lambda: fleet.ansible("--check"))
        applied = fleet.number
        fleet.say(applied + 100)
        note("e ours", lambda: fleet.ours("deploys/site.py", "--dry", "--diff"))
        if number < SLOW[count]:
            fleet.for_ansible()
            note("e Ansible", lambda: fleet.ansible("--check", "--diff"))
        fleet.say(applied)
        fleet.for_ansible()
    return found


JOBS = {
    "a": "nothing changes",
    "b": "one setting changes on every node",
    "c": "first configuration: the package is there, and nothing else",
    "d": "verify (Ansible: --check)",
    "e": "--dry --diff of a changed setting (Ansible: --check --diff)",
}


def middle(found: Found, name: str, what: str = "seconds") -> float:
    """The median."""
    return statistics.median(getattr(one, what) for one in found[name])


def spread(found: Found, name: str) -> str:
    """Median, least and most."""
    seconds = [one.seconds for one in found[name]]
    more = f" ({min(seconds):.2f} to {max(seconds):.2f})" if len(seconds) > 1 else ""
    return f"{statistics.median(seconds):.2f} s{more}"


def apart(found: Found, name: str) -> float:
    """The median, without the time in which a gitlab-ctl ran anywhere."""
    return statistics.median(one.seconds - one.control for one in found[name])


def aims(all_found: dict[int, Found]) -> list[str]:
    """What was aimed at, and what was measured."""
    lines = ["", "## What was aimed at", "", *head("", "aim", "measured", "")]

    def row(what: str, aim: str, got: float, met: bool, digits: int = 1) -> None:
        lines.append(f"| {what} | {aim} | {got:.{digits}f} | {'met' if met else '**not met**'} |")

    if found := all_found.get(30):
        ratio = middle(found, "a ours") / middle(found, "floor, fresh")
        row("30 nodes, nothing changes: ours to the floor with new connections", "at most 2.0", ratio, ratio <= 2, 2)
        ratio = middle(found, "a Ansible") / middle(found, "a ours")
        row("30 nodes, nothing changes: Ansible to ours", "at least 40", ratio, ratio >= 40)
        for job in "bc":
            ratio = apart(found, f"{job} Ansible") / apart(found, f"{job} ours")
            row(f"30 nodes, {JOBS[job]}, without gitlab-ctl: Ansible to ours", "at least 10", ratio, ratio >= 10)
    if 30 in all_found and 60 in all_found:
        ratio = middle(all_found[60], "a ours") / middle(all_found[30], "a ours")
        row("nothing changes: 60 nodes to 30", "at most 2.1", ratio, ratio <= 2.1, 2)
    for count, found in all_found.items():
        most = max(one.memory for job in JOBS for one in found[f"{job} ours"])
        limit = 150 + 2 * count
        row(f"{count} nodes: memory at its peak, MB", f"at most {limit}", most, most <= limit, 0)
    return lines


def rest(all_found: dict[int, Found]) -> list[str]:
    """What is left, and whose it is."""
    lines = ["", "## What is left of a run that changes nothing", ""]
    lines += head("nodes", "ours", "of it pyinfra with one command", "our look and what we make of it")
    for count, found in all_found.items():
        ours, alone = middle(found, "a ours"), middle(found, "pyinfra alone")
        lines.append(f"| {count} | {ours:.2f} s | {alone:.2f} s ({alone / ours:.0%}) | {ours - alone:.2f} s |")
    return lines


def head(*titles: str) -> list[str]:
    """The first lines of a table."""
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]


def report(all_found: dict[int, Found]) -> str:
    """The tables."""
    lines = [f"Measured {datetime.now(UTC):%Y-%m-%d} on the lab.", "", "## In all", ""]
    lines += head("nodes", *FLOORS, "pyinfra with one command")
    for count, found in all_found.items():
        cells = [spread(found, name) for name in (*FLOORS, "pyinfra alone")]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    for job, title in JOBS.items():
        lines += ["", f"## {job}: {title}", ""]
        lines += head("nodes", "ours", "Ansible", "Ansible : ours", "the same without gitlab-ctl", "ours : floor")
        for count, found in all_found.items():
            ours, theirs = middle(found, f"{job} ours"), middle(found, f"{job} Ansible")
            without = [apart(found, f"{job} {who}") for who in ("ours", "Ansible")]
            cells = [spread(found, f"{job} ours"), spread(found, f"{job} Ansible"), f"{theirs / ours:.1f}"]
            cells += [f"{without[0]:.2f} s, {without[1]:.2f} s: {without[1] / without[0]:.1f}"]
            cells += [f"{ours / middle(found, 'floor, fresh'):.2f}"]
            lines.append(f"| {count} | {' | '.join(cells)} |")
    lines += ["", "## What it costs", ""]
    lines += head("nodes", "job", "", "CPU here", "memory", "kB per node", "SSH sessions on the last node")
    for count, found in all_found.items():
        for name in ("pyinfra alone", *(f"{job} {who}" for job in JOBS for who in ("ours", "Ansible"))):
            job, _, who = name.partition(" ") if name != "pyinfra alone" else (name, "", "")
            cells = [f"{middle(found, name, 'cpu'):.2f} s", f"{middle(found, name, 'memory'):.0f} MB"]
            cells += [f"{middle(found, name, 'kilobytes'):.0f}", f"{middle(found, name, 'sessions'):.0f}"]
            lines.append(f"| {count} | {job} | {who} | {' | '.join(cells)} |")
    return "\n".join([*lines, *rest(all_found), *aims(all_found)]) + "\n"


def plot(all_found: dict[int, Found]) -> None:
    """Seconds over nodes, for the run that changes nothing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 4.5))
    counts = list(all_found)
    lines = {"a Ansible": "Ansible", "d ours": "ours, verify", "a ours": "ours, site"}
    lines |= {name: name for name in ("pyinfra alone", "floor, fresh", "floor, kept")}
    for name, label in lines.items():
        axes.plot(counts, [middle(found, name) for found in all_found.values()], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="seconds", title="A run that changes nothing")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(REPORT.with_suffix(".png"), dpi=120)


def main() -> None:
    """Measure, and write the report."""
    folder = LAB / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab()
    lab.up()
    all_found: dict[int, Found] = {}
    try:
        for count in COUNTS:
            all_found[count] = one_size(lab, folder, count)
            raw = {str(n): {k: [m.__dict__ for m in v] for k, v in f.items()} for n, f in all_found.items()}
            (folder / "speed.json").write_text(json.dumps(raw))
            (folder / "speed.md").write_text(report(all_found))
    finally:
        lab.down()
    marker = "<!-- below: written by make bench -->\n"
    REPORT.write_text(REPORT.read_text().partition(marker)[0] + marker + report(all_found))
    plot(all_found)


if __name__ == "__main__":
    main()
