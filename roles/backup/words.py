"""Numbers, times and foreign text as people read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_MONTHS = "January February March April May June July August September October November December".split()
# Not to be shown as they are: control characters but for tab and newline, and what turns the direction of a line.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


def duration(seconds: float) -> str:
    """A length of time, such as `0.4 s`, `3 min 12 s`, `15 h 58 min`, `3 d 4 h`.

    Rounded up, so that nothing looks faster or fresher than it was; what is below zero is shown as zero.
    """
    seconds = round(max(0.0, seconds), 3)
    tenths = math.ceil(round(seconds * 10, 2))
    if tenths < 100:
        return f"{tenths / 10:g} s"
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", "s")
    minutes = math.ceil(seconds / 60)
    if minutes < 48 * 60:
        return _two(minutes, 60, "h", "min")
    return _two(math.ceil(seconds / 3600), 24, "d", "h")


def _two(count: int, size: int, large: str, small: str) -> str:
    head, tail = divmod(count, size)
    return f"{head:,} {large} {tail} {small}" if tail else f"{head:,} {large}"


def size(count: int) -> str:
    """A number of bytes, such as `1.8 GB` (powers of 1000)."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.95 or unit == "PB":
            break
        value /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{value:,.1f} {unit}"


def date(unix: float) -> str:
    """A day in UTC, such as `23 November 2026`."""
    day = datetime.fromtimestamp(unix, UTC)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def moment(unix: float) -> str:
    """A minute in UTC, such as `23 November 2026, 02:15 UTC`."""
    return f"{date(unix)}, {datetime.fromtimestamp(unix, UTC):%H:%M} UTC"


def iso(unix: float) -> str:
    """A second in UTC as ISO 8601, such as `2026-11-23T02:15:00Z`."""
    return f"{datetime.fromtimestamp(unix, UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def shown(text: str) -> str:
    """Foreign text with its control characters visible, as Python writes them."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(text: str) -> str:
    """The first line that is not blank; empty when there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def one_line(text: str, limit: int) -> str:
    """The text on one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def shorten(text: str, limit: int = 320, lines: int = 8) -> str:
    """The beginning and the end of a long text, and how much is between them; a short one as it is.

    Args:
        limit: characters that are shown.
        lines: lines that are shown.
    """
    rows = text.split("\n")
    if len(text) <= limit and len(rows) <= lines:
        return text
    head = "\n".join(rows[: lines - 2])[: limit * 3 // 4]
    tail = rows[-1][-(limit // 4) :]
    left = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left:,} more characters …]\n{tail}"
