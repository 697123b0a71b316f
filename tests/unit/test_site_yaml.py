"""The YAML of a site file: lines, duplicate keys, tags, and nothing unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest

from roles.site.secret import CommandRef, EnvRef, FileRef
from roles.site.yaml import Document, read


@pytest.fixture
def parse(tmp_path: Path):
    def parse(text: str | bytes) -> Document:
        file = tmp_path / "site.yml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(file)

    return parse


def test_every_key_has_its_line(parse) -> None:
    document = parse("a: 1\n\nb:\n  c: x\n  d:\n    - e\n    - {f: 2}\ng: |\n  one\n  two\n")
    assert document.data == {"a": 1, "b": {"c": "x", "d": ["e", {"f": 2}]}, "g": "one\ntwo\n"}
    assert {path: document.line(path) for path in [("a",), ("b", "c"), ("b", "d", 1), ("b", "d", 1, "f"), ("g",)]} == {
        ("a",): 1,
        ("b", "c"): 4,
        ("b", "d", 1): 7,
        ("b", "d", 1, "f"): 7,
        ("g",): 8,
    }
    assert document.line(("b", "missing", "deep")) == 3
    assert document.text_lines[("g",)] == 9
    assert not document.problems


def test_the_tags_make_references(parse) -> None:
    document = parse('a: !env NAME\nb: !file x/y\nc: !command "sops -d x"\n')
    assert document.data == {"a": EnvRef("NAME"), "b": FileRef("x/y"), "c": CommandRef("sops -d x")}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("!vault x", "unknown tag !vault"),
        ("!!python/object/apply:os.system ['true']", "unknown tag"),
        ("!!binary aGk=", "unknown tag"),
        ("!!set {a}", "unknown tag"),
        ("!env [a]", "takes one text"),
        ("!file", "needs a path"),
        ("!env A-B", "not a name of an environment variable"),
        ("!command 'sops \"'", "quotation"),
    ],
)
def test_wrong_tags(parse, value: str, told: str) -> None:
    document = parse(f"a: 1\nb:\n  c: {value}\n")
    (problem,) = document.problems
    assert (problem.line, problem.key) == (3, "b.c")
    assert told in problem.message
    if told.startswith("unknown"):
        assert problem.allowed == "!env, !file, !command"
    assert document.data["b"]["c"] is None
    assert ("b", "c") in document.broken


def test_duplicate_keys_name_both_lines(parse) -> None:
    document = parse("nodes:\n  a: {address: x}\n  b: {address: y}\n  a: {address: z}\nnodes: {}\n")
    assert [(p.line, p.key) for p in document.problems] == [(4, "nodes.a"), (5, "nodes")]
    assert "lines 2 and 4" in document.problems[0].message
    assert "lines 1 and 5" in document.problems[1].message


def test_anchors_and_merge_keys(parse) -> None:
    document = parse("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: {<<: [*x, {c: 4}], d: *x}\n")
    assert not document.problems
    assert document.data["y"] == {"a": 1, "b": 3}
    assert document.data["z"] == {"a": 1, "b": 2, "c": 4, "d": {"a": 1, "b": 2}}
    assert document.line(("y", "a")) == 1


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}"])
def test_an_alias_that_contains_itself(parse, text: str) -> None:
    assert "contains itself" in parse(text).problems[0].message


def test_aliases_that_unfold_without_end(parse) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    document = parse("\n".join(lines))
    assert any("too many values" in p.message for p in document.problems)
    assert len(document.problems) == 1


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: [\n", 3, "not valid YAML"),
        ("a: 1\nb: %{key}\n", 2, "into quotes"),
        ("a: 1\n---\nb: 1\n", 2, "not valid YAML"),
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("a: 1\n1: x\n", 2, "a key must be text"),
        ("a: *nothing\n", 1, "undefined alias"),
    ],
)
def test_what_is_no_site_file(parse, text: str | bytes, line: int, told: str) -> None:
    (problem,) = parse(text).problems
    assert problem.line == line
    assert told in str(problem)


def test_dates_stay_text_and_numbers_do_not(parse) -> None:
    data = parse("a: 2024-01-02\nb: 1\nc: 1.5\nd: true\ne: null\nf: 18.11.11\n").data
    assert data == {"a": "2024-01-02", "b": 1, "c": 1.5, "d": True, "e": None, "f": "18.11.11"}
