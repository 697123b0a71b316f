"""The page of a drill: what failed is told in words, no text breaks it, it loads and runs nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from roles.backup import page, words
from roles.backup.report import from_json, html, to_json
from roles.backup.verdict import meaning, verdict
from roles.site import secret
from tests.unit.drills import DRILL, GOOD, NASTY, SAVED, WRONG, Page, before, but, check, everywhere, phase


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch):
    monkeypatch.setattr(secret, "_known", set())
    monkeypatch.setattr(secret, "_pattern", None)


def test_the_verdict_of_a_good_drill():
    assert verdict(GOOD) == (
        "The backup of 23 November 2026, 02:15 UTC was restored on spare-1 in 3 min 12 s. All 2 checks passed. Had the "
        "server been lost at the time of the drill, 15 h 58 min of chat would have been lost (promised: at most 26 h)."
    )
    assert meaning(GOOD) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checks": (check(), check("files", "9", "8", False))}, "1 of 2 checks failed, the first of them: “files”"),
        ({"checks": (check(), check("files", "9", "", False))}, "must be 9 and was nothing"),
        (
            {"backup": None, "error": "no route.\nmore"},
            "No backup was restored on spare-1. The drill stopped: no route.",
        ),
        ({"phases": (phase("fetch", ok=False),), "error": "cut"}, "The drill stopped in the phase “fetch”: cut."),
        ({"phases": (phase("tear down", ok=False),)}, "The phase “tear down” failed."),
        ({"rto": None}, "did not become a chat that answers on spare-1"),
        ({"checks": ()}, "Nothing was checked."),
        ({"rpo_found": 30 * 3600.0}, "30 h of chat would have been lost, more than promised (at most 26 h)."),
        ({"rpo_found": -7200.0}, "It is dated 2 h after the drill began, so a clock is wrong."),
    ],
)
def test_the_verdict_names_what_failed(changes, said):
    assert said in verdict(but(**changes))
    assert said in Page(html(but(**changes))).text


def test_a_failed_drill_does_not_promise_that_only_so_much_chat_is_lost():
    for changes in ({"checks": (check(ok=False),)}, {"error": "cut"}, {"rto": None}, {"backup": None}):
        assert "would have been lost" not in Page(html(but(**changes))).text


def test_a_failed_drill_names_the_last_that_passed():
    history = (before(passed=False, reason="x"), before("20261109T181530Z"), before("20261102T181530Z"))
    assert "The last drill that passed was on 9 November 2026." in meaning(but(error="cut", history=history))
    assert "No drill on record before this one passed." in meaning(but(error="cut", history=history[:1]))
    assert "There is no earlier drill on record." in meaning(but(error="cut"))


def test_failed_checks_come_first_with_what_was_expected_and_found():
    bad = but(checks=(check(), check("channels", "7 of them", "6 of them", False), check("teams", "2", "2")))
    rows = [row for row in Page(html(bad)).rows if "Expected" not in row]
    assert [word for row in rows for word in ("posts", "channels", "teams") if word in row] == [
        "channels",
        "posts",
        "teams",
    ]
    for word in ("Failed", "7 of them", "6 of them"):  # a word, not the colour alone
        assert word in rows[0]
    assert all("Passed" in row for row in rows[1:])


def test_all_that_a_report_holds_is_on_the_page():
    history = (before("20261109T181530Z", False, None, "phase “fetch” failed"), before())
    seen = Page(html(but(error="cut off\nsecond line", history=history))).text
    for word in ("chat", "spare-1", "cut off", "second line", "48.2 GB", "1,204,518", "182,345", "11.4.2", "16.4"):
        assert word in seen
    for word in ("fetch", "tear down", "3 min 12 s", "15 h 58 min", "26 h", SAVED.id, DRILL, "pyinfra-gitlab"):
        assert word in seen
    for word in ("phase “fetch” failed", "earlier-backup", "3 min 20 s", "9 November 2026, 18:15 UTC"):
        assert word in seen


def test_times_are_told_in_utc_for_machines_too():
    times = {tag["datetime"] for tag in Page(html(but(history=(before(),)))).named("time")}
    assert {"2026-11-23T18:15:30Z", "2026-11-23T02:15:00Z", "2026-11-23T18:19:14Z", "2026-11-16T18:15:30Z"} == times


@pytest.mark.parametrize("changes", [{}, *WRONG.values(), {"phases": ()}, {"history": (before(),) * 30}])
def test_a_page_loads_nothing_runs_nothing_and_can_be_heard(changes):
    text = html(but(**changes))
    seen = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", text)
    assert re.findall(r"url\(([^)]*)\)", text) == ["#stripes"]
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in seen.tags}
    names = {name for _, attributes in seen.tags for name in attributes}
    assert not {"src", "href", "xlink:href", "action"} & names
    assert not [name for name in names if name.startswith("on")]
    assert any("default-src 'none'" in (tag.get("content") or "") for tag in seen.named("meta"))
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in seen.named("svg"):
        assert svg.get("aria-hidden") == "true" or set(str(svg["aria-labelledby"]).split()) <= set(ids)
    assert all(tag.get("scope") in ("col", "row") for tag in seen.named("th"))
    assert len(seen.named("h1")) == 1
    assert seen.named("html")[0]["lang"] == "en"
    for rect in seen.named("rect"):
        if str(rect["width"]).endswith("%"):
            assert 0 <= float(str(rect["x"]).rstrip("%")) <= 100
            assert 0 < float(str(rect["width"]).rstrip("%")) <= 100


@how(max_examples=60, deadline=None)
@given(st.text(max_size=400))
@example(NASTY)
@example('" onload="alert(1)')
@example("a\n" * 50)
def test_no_text_breaks_the_page_or_is_lost(text):
    told = everywhere(text)
    plain = Page(html(everywhere("plain")))
    seen = Page(html(told))

    def shape(one: Page) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in one.tags if tag != "pre"]

    assert shape(seen) == shape(plain)
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in seen.text
    assert "\x00" not in seen.text
    again = from_json(to_json(told))
    assert again == told
    assert again.checks[0].found == text
    assert to_json(again) == to_json(told)


def test_hostile_text_is_shown_and_not_run():
    seen = Page(html(but(checks=(check(found=NASTY, ok=False),))))
    assert "<script>alert(1)</script>\"'&{{ 7*7 }}\n\t\\x00\\x1b[31m\\r\\u202eü\N{PILE OF POO}" in seen.text


def test_a_long_value_is_short_on_the_page_and_whole_in_json():
    long = "A" + "x" * 4998 + "Z"
    told = but(checks=(check(found=long, ok=False),))
    text = html(told)
    assert len(text) - len(html(but(checks=(check(ok=False),)))) < 1500
    assert "more characters" in text
    assert "xZ" in text, "the end is shown too"
    assert from_json(to_json(told)).checks[0].found == long
    rows = words.shorten("\n".join(f"line {i}" for i in range(1000)))
    assert len(rows.splitlines()) <= 8
    assert words.shorten("x" * 320) == "x" * 320
    left = re.search(r"([0-9,]+) more", words.shorten(long))
    assert left is not None
    assert int(left[1].replace(",", "")) == 5000 - 320


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0 s"), (0, "0 s"), (0.01, "0.1 s"), (0.4, "0.4 s"), (9.95, "10 s"), (42, "42 s"), (59.2, "1 min"),
        (192, "3 min 12 s"), (3599.5, "1 h"), (57480, "15 h 58 min"), (93600, "26 h"), (93601, "26 h 1 min"),
        (172800, "2 d"), (273600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations_are_readable_and_never_too_short(seconds, said):
    assert words.duration(seconds) == said


@given(st.floats(min_value=0, max_value=1e9))
def test_a_duration_is_never_told_shorter_than_it_was(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = words.duration(seconds).replace(",", "").split()
    told = sum(float(count) * units[unit] for count, unit in zip(parts[::2], parts[1::2], strict=True))
    assert seconds - 0.001 <= told <= seconds + 3600


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (1_812_345_678, "1.8 GB"),
     (2**63 - 1, "9,223.4 PB")],
)  # fmt: skip
def test_sizes_are_readable(count, said):
    assert words.size(count) == said


def test_charts_are_to_scale():
    line = page.timeline(GOOD)
    assert [(bar.at, bar.width) for bar in line.bars] == [(0, 50), (50, 46), (96, 4)]
    assert line.answered == 96
    assert [mark.seconds for mark in line.marks] == [0, 60, 120, 180]
    chart = page.history(but(history=(before(rto=300.0), before("20261109T181530Z", False, None, "x"))))
    assert [(one.height, one.passed, one.now) for one in chart.columns] == [
        (0, False, False),
        (1, True, False),
        (0.64, True, True),
    ]
    assert page.usual(but(history=(before(rto=100.0), before(rto=300.0), before(passed=False, rto=9.0)))) == 200
    assert page.usual(GOOD) is None
