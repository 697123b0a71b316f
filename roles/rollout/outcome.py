"""How the run ended, in one last line, in JSON, and in the exit code: all three always agree.

pyinfra itself knows only exit 0 and 1, exits 0 after Ctrl-C and after a refused confirmation, and prints no JSON when a
run is aborted (3.10). So the verdict is kept here and spoken when the process exits.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sys
from io import TextIOWrapper
from types import FrameType
from typing import Any

import gevent
from pyinfra import state
from pyinfra.api.state import StateStage

from roles.site.secret import scrub

GOOD = ("as declared", "changed", "would change")
"""The verdicts with exit code 0."""
_WORST_FIRST = ("failed", "could not look", "differs", "would change", "changed", "as declared")
_NOT_AT_ITS_END = "the run did not get to its end; the same command finishes it"


class Outcome:
    """The verdict of this process, at first `failed`: only a run that got to its end can say better."""

    def __init__(self) -> None:
        self.details: dict[str, Any] = {}
        self.json = False
        self.dry = False
        self.code = 1
        self._armed = False
        self._failures: list[str] = []
        self._refusals: list[str] = []
        self._parts: dict[str, tuple[str, tuple[str, ...]]] = {}

    def arm(self) -> None:
        """Speak at exit, and turn Ctrl-C into exit code 130. Called once, when the inventory is loaded."""
        if self._armed:
            return
        self._armed = True
        atexit.register(self._speak)
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._interrupted)

    def disarm(self) -> None:
        """Say nothing: this run does nothing to the site (`debug-inventory`, a fact, a command)."""
        atexit.unregister(self._speak)
        self._armed = False

    def failed(self, reason: str) -> None:
        """Something went wrong. The first line of each reason is told again at the end."""
        self._failures.append(scrub(reason).splitlines()[0])

    def refused(self, reasons: list[str]) -> None:
        """Nothing was touched, and why."""
        self._refusals += reasons

    def begin(self, part: str, **details: Any) -> None:
        """A part of the run begins to change the site; unless it ends with a verdict, the run has failed."""
        self.end("failed", _NOT_AT_ITS_END, part=part, **details)

    def end(self, verdict: str, *reasons: str, part: str = "", **details: Any) -> None:
        """A part of the run came to its end with this verdict. The worst of all parts is that of the run."""
        self._parts[part] = (verdict, reasons)
        for name, value in details.items():
            if isinstance(value, dict):  # what changed on which node, part by part
                value = self.details.get(name, {}) | value
            self.details[name] = value

    def verdict(self) -> tuple[str, list[str]]:
        """The verdict of the run as a whole, and the reasons for it."""
        reasons = self._failures or self._refusals
        verdict = "failed" if self._failures else "refused"
        if not reasons:
            verdict = min((word for word, _ in self._parts.values()), key=_WORST_FIRST.index, default="failed")
            reasons = [reason for word, told in self._parts.values() if word == verdict for reason in told]
        failed = _failed_nodes()
        if verdict in GOOD and failed:  # in another deploy of the same command
            verdict, reasons = "failed", [f"{', '.join(failed)}: see above"]
        if verdict not in GOOD and not reasons:
            reasons = [_unreachable() or "the cause is told above; the same command again finishes the job"]
        return verdict, list(dict.fromkeys(scrub(reason) for reason in reasons))

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.failed(
            f"interrupted by {signal.Signals(number).name}. A command that was running on a node may still run there; "
            "the same command again finishes the job."
        )
        self.code = 128 + number
        # The handler runs in whichever greenlet is active. Raised in one of paramiko's, SystemExit would end that
        # greenlet alone, in silence, and the run would wait for it for ever. So the main greenlet gets it.
        hub = gevent.get_hub()
        hub.loop.run_callback(hub.handle_system_error, SystemExit, SystemExit(self.code))

    def _speak(self) -> None:
        verdict, reasons = self.verdict()
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            sys.stdout.flush()
            if self.json:
                answer = {"result": verdict, "reasons": reasons, **self.details}
                print(scrub(json.dumps(answer, ensure_ascii=False)), flush=True)
            line = f"pyinfra-gitlab: {verdict}" + (": " if reasons else "") + "; ".join(reasons)
            print(line, file=sys.stderr, flush=True)
            gc.freeze()  # else the interpreter looks through every object again while it ends: 0.15 s
        finally:  # nobody may be listening any more
            if verdict not in GOOD:
                os._exit(self.code)  # at this point the only way left to make sure that no failure exits 0


def _failed_nodes() -> list[str]:
    try:
        return sorted(str(host.name) for host in state.failed_hosts)
    except (AttributeError, TypeError):  # pyinfra had no state yet
        return []


def _unreachable() -> str:
    """Why the run ended while it was connecting; empty when it did not."""
    names = _failed_nodes()
    if not names or state.current_stage > StateStage.Connect:
        return ""
    return (
        f"{', '.join(names)} could not be reached. It might be reading mail, so nothing was changed anywhere. "
        "Bring it back, or take it out of the site file once it is switched off for good"
    )


outcome = Outcome()
"""The verdict of this process."""
