"""Mail that keeps coming, and an eye on who reads it: what tests of moves, rotations and failures share."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import mail
from tests.lab.image import DOMAIN
from tests.lab.lab import Lab, children
from tests.lab.site import NODES, LabSite

ADDRESSES = (
    f"incoming+mygroup-myproject-1-issue@{DOMAIN}",
    f"servicedesk+mygroup-myproject-support@{DOMAIN}",
)
"""One address of each mailbox."""
PERIOD = 0.1
"""Seconds between two looks of the sampler."""


@dataclass
class Readers:
    """Who read when: from the processes of all nodes, seen from outside, every 100 ms."""

    lab: Lab
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """Moments, and how many mail_rooms ran on each node then (only nodes with some)."""

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Readers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.is_set():
            started = time.monotonic()
            self.samples.append((started, count_readers(self.lab)))
            self._end.wait(max(PERIOD - (time.monotonic() - started), 0))

    @property
    def two(self) -> list[tuple[float, dict[str, int]]]:
        """The samples with more than one reader."""
        return [(moment, found) for moment, found in self.samples if sum(found.values()) > 1]

    @property
    def longest_without(self) -> float:
        """Seconds of the longest time in which nobody read."""
        longest, since = 0.0, None
        for moment, found in self.samples:
            if found:
                since = None
            else:
                since = moment if since is None else since
                longest = max(longest, moment - since)
        return longest


def count_readers(lab: Lab) -> dict[str, int]:
    """How many mail_rooms run on each node, from the machine that the lab is on; nodes without any are left out."""
    found = {}
    for name in NODES:
        leader = lab.leader(name)
        number = sum(_is_reader(pid) for pid in _tree(leader)) if leader else 0
        if number:
            found[name] = number
    return found


def _tree(pid: int) -> list[int]:
    out = [pid]
    for one in out:
        out += children(one)
    return out


def _is_reader(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return bool(words and re.search(rb"(^|/)ruby[^/]*$", words[0]) and any(w.endswith(b"/mail_room") for w in words))


class Storm:
    """Sends mail to both mailboxes at a steady rate until it is told to stop."""

    def __init__(self, lab: Lab, seed: int, rate: float) -> None:
        self.lab, self.rate = lab, rate
        self.sent: list[str] = []
        self._choose = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._end.is_set():
            number = self._choose.randint(1, 2)
            self.sent += mail.send(self.lab, self._choose.choice(ADDRESSES), "in a storm", count=number)
            self._end.wait(number / self.rate)


def arrived(site: LabSite, sent: list[str], seconds: float = 90) -> tuple[list[str], dict[str, int]]:
    """Wait for all these mails.

    Returns:
        those that did not reach GitLab's API, and those that did more than once, with how often.
    """
    got = Counter(one["message_id"].strip("<>") for one in site.wait_for(set(sent), seconds))
    return [one for one in sent if not got[one]], {one: number for one, number in got.items() if number > 1}
