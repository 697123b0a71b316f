"""Ctrl-C ends the run wherever it strikes, with its own exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import os, signal, threading, time
from roles.rollout.outcome import outcome
outcome.arm()
strike = lambda: os.kill(os.getpid(), signal.{name})
{where}
time.sleep(30)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("where", ["strike()", "threading.Thread(target=strike, daemon=True).start()"])
def test_a_signal_ends_the_run(name: str, code: int, where: str) -> None:
    program = PROGRAM.format(name=name, where=where)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith(f"pyinfra-gitlab: failed: interrupted by {name}")
