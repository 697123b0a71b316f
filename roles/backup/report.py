"""The report of a restore drill: what was restored, how long it took, what was checked; as JSON and as one page.

paths = write(Report(site=..., drill=..., history=tuple(earlier(folder)), ...), folder)
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from itertools import islice
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from roles.backup.page import html
from roles.backup.result import LINE, Backup, Earlier, Phase, Report, Result, drill_time
from roles.backup.verdict import verdict
from roles.backup.words import one_line

__all__ = [
    "HISTORY",
    "Backup",
    "Earlier",
    "Phase",
    "Report",
    "Result",
    "earlier",
    "from_json",
    "html",
    "to_json",
    "verdict",
    "write",
]

HISTORY: Final = 30
"""At most so many earlier drills are listed."""
_NAME = re.compile(r"drill-([0-9]{8}T[0-9]{6}Z)\.json")


def to_json(report: Report) -> str:
    """The report as JSON, indented, always the same for the same report. `passed` is told first."""
    return json.dumps({"passed": report.passed, **report.model_dump(mode="json")}, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Report:
    """A report as `to_json` wrote it.

    Raises:
        ValueError: what is wrong with it: not JSON, another format, a field, or a `passed` that its checks belie.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(told, dict):
        raise ValueError("not a drill's report: it is no object")
    if told.get("format") != 1:
        raise ValueError("format: only 1 is known to this version")
    passed = told.pop("passed", None)
    try:
        report = Report.model_validate_json(json.dumps(told))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'report'}: {one['msg']}" for one in error.errors()]
        raise ValueError("; ".join(wrong)) from None
    except RecursionError:
        raise ValueError("not a drill's report: nested too deeply") from None
    if passed is not report.passed:
        raise ValueError(f"passed: it says {json.dumps(passed)}, but {report.reason or 'nothing in it failed'}")
    return report


def earlier(folder: Path) -> list[Earlier]:
    """The drills whose JSON reports are in the folder, newest first, at most 30. A damaged one is listed as unreadable.

    Raises:
        OSError: the folder is there but cannot be listed.
    """
    if not folder.exists():
        return []
    ids = (match[1] for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and _is_drill(match[1]))
    return [_earlier(folder / f"drill-{drill}.json", drill) for drill in islice(sorted(ids, reverse=True), HISTORY)]


def _is_drill(drill: str) -> bool:
    try:
        drill_time(drill)
    except ValueError:
        return False
    return True


def _earlier(path: Path, drill: str) -> Earlier:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        report = from_json(path.read_text(encoding="utf-8"))
        if report.drill != drill:
            raise ValueError(f"it is of drill {report.drill}")
    except (OSError, ValueError) as error:
        cause = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        reason = one_line(f"report unreadable: {cause}", LINE)
        return Earlier(
            drill=drill, started=drill_time(drill), passed=False, rto=None, rpo_found=None, backup="", reason=reason
        )
    return Earlier(
        drill=drill,
        started=report.started,
        passed=report.passed,
        rto=report.rto,
        rpo_found=report.rpo_found,
        backup=report.backup.id if report.backup else "",
        reason=report.reason,
    )


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `drill-ID.json` and `drill-ID.html` (mode 0640), both whole or none. The folder is made if absent (0750).

    Returns:
        The paths of the JSON and of the page.

    Raises:
        FileExistsError: one of them is there already; a report is never overwritten.
        OSError: they cannot be written.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o750, parents=True)
        folder.chmod(0o750)  # whatever the umask is
    page, record = (folder / f"drill-{report.drill}.{kind}" for kind in ("html", "json"))
    _put(page, html(report))
    try:
        _put(record, to_json(report))  # last: where the record is, the page is too
    except BaseException:
        page.unlink()
        raise
    return record, page


def _put(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), 0o640)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # fails when it is there, where a rename would replace it
    finally:
        os.unlink(name)
