"""How the run ended, in one last line, in JSON, and in the exit code: all three always agree.

pyinfra itself knows only exit 0 and 1, exits 0 after Ctrl-C and after a refused confirmation, and prints no JSON when a
run is aborted (3.10). So the verdict is kept here and spoken when the process exits.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

import gevent
from pyinfra import state
from pyinfra.api.state import StateStage

from roles.site.secret import scrub

GOOD = ("as declared", "changed", "would change")
"""The verdicts with exit code 0."""


class Outcome:
    """The verdict of this process, at first `failed`: only a run that got to its end can say better."""

    def __init__(self) -> None:
        self.verdict = "failed"
        self.reasons: list[str] = []
        self.details: dict[str, Any] = {}
        self.json = False
        self.dry = False
        self.code = 1
        self._armed = False
        self._failing = False

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
        if self.verdict != "failed" or not self._failing:
            self.reasons = []
        self.verdict, self._failing = "failed", True
        self.reasons.append(scrub(reason).splitlines()[0])

    def refused(self, reasons: list[str]) -> None:
        """Nothing was touched, and why."""
        self.verdict = "refused"
        self.reasons += [scrub(reason) for reason in reasons]

    def end(self, verdict: str, *reasons: str, **details: Any) -> None:
        """The run came to its end with this verdict."""
        self.verdict = verdict
        self.reasons = list(reasons)
        self.details |= details

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
        good = self.verdict in GOOD
        reasons = "; ".join(dict.fromkeys(self.reasons))
        if not reasons and not good:
            reasons = _unreachable() or "the cause is told above; the same command again finishes the job"
        sys.stdout.flush()
        if self.json:
            answer = {"result": self.verdict, "reasons": list(dict.fromkeys(self.reasons)), **self.details}
            print(scrub(json.dumps(answer, ensure_ascii=False)), flush=True)
        print(
            f"pyinfra-gitlab: {self.verdict}" + (f": {reasons}" if reasons else ""),
            file=sys.stderr,
            flush=True,
        )
        if not good:
            os._exit(self.code)  # at this point the only way left to make sure that no failure exits 0


def _unreachable() -> str:
    """Why the run ended while it was connecting; empty when it did not."""
    try:
        if state.current_stage > StateStage.Connect:
            return ""
        names = sorted(str(host.name) for host in state.failed_hosts)
    except (AttributeError, TypeError):  # pyinfra had no state yet
        return ""
    if not names:
        return ""
    return (
        f"{', '.join(names)} could not be reached. It might be reading mail, so nothing was changed anywhere. "
        "Bring it back, or take it out of the site file once it is switched off for good"
    )


outcome = Outcome()
"""The verdict of this process."""
