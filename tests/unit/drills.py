"""Reports of drills for the tests, and a page taken apart."""

from __future__ import annotations

from html.parser import HTMLParser

from roles.backup.report import Backup, Earlier, Phase, Report, Result
from roles.backup.result import drill_time

STARTED = 1795457730.0  # 2026-11-23T18:15:30Z
DRILL = "20261123T181530Z"
SAVED = Backup(
    id="20261123T021500Z",
    time=1795400100.0,
    bytes=48_212_345_678,
    files=182_345,
    posts=1_204_518,
    mattermost="11.4.2",
    postgresql="16.4",
)
NASTY = "<script>alert(1)</script>\"'&{{ 7*7 }}\n\t\x00\x1b[31m\r\N{RIGHT-TO-LEFT OVERRIDE}ü\N{PILE OF POO}</style>-->"
VOID = {"meta", "path", "rect", "line", "br"}


def check(name="posts", expected="41", found="41", ok=True) -> Result:
    return Result(name=name, expected=expected, found=found, ok=ok)


def phase(name="restore", started=0.0, seconds=12.0, ok=True) -> Phase:
    return Phase(name=name, started=started, seconds=seconds, ok=ok)


def before(drill="20261116T181530Z", passed=True, rto: float | None = 200.0, reason="") -> Earlier:
    started = drill_time(drill)
    return Earlier(
        drill=drill, started=started, passed=passed, rto=rto, rpo_found=57600.0, backup="earlier-backup", reason=reason
    )


GOOD = Report(
    site="chat",
    drill=DRILL,
    node="spare-1",
    started=STARTED,
    finished=STARTED + 224,
    backup=SAVED,
    rpo_promised=26 * 3600.0,
    rpo_found=15 * 3600 + 58 * 60.0,
    rto=192.0,
    phases=(phase("fetch", 0.0, 100.0), phase("restore", 100.0, 92.0), phase("tear down", 192.0, 8.0)),
    checks=(check(), check("channels", "7", "7")),
)
WRONG = {
    "an error": {"error": "the disk is full"},
    "an error of blanks": {"error": "\n "},
    "a failed phase": {"phases": (phase(), phase("tear down", ok=False))},
    "a failed check": {"checks": (check(), check(ok=False))},
    "no check": {"checks": ()},
    "no backup": {"backup": None},
    "never answered": {"rto": None},
    "no age": {"rpo_found": None},
    "too old": {"rpo_found": 26 * 3600 + 1.0},
    "from the future": {"rpo_found": -61.0},
}


def but(**changes) -> Report:
    """The good report with other fields, validated again."""
    return Report(**{name: getattr(GOOD, name) for name in Report.model_fields} | changes)


class Page(HTMLParser):
    """A page taken apart; refuses what is not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")
        if "tr" in self.open:
            self.rows[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def everywhere(text: str) -> Report:
    """A report with this text wherever a text may be."""
    return Report(
        site=text,
        drill=DRILL,
        node=text,
        started=STARTED,
        finished=STARTED,
        error=text or "an error",
        backup=Backup(id=text, time=STARTED, bytes=0, files=0, posts=0, mattermost=text, postgresql=text),
        rpo_promised=0.0,
        phases=(phase(text, ok=False),),
        checks=(check(text, text, text, False),),
        history=(before(reason=text, passed=False).model_copy(update={"backup": text}),),
    )
