"""No value can break out of a rendered file, and real Ruby reads back exactly what was put in."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roles.gitlab.ruby import literal, string
from roles.site.secret import Secret

NASTY = [
    "'", '"', "\\", "\\'", "#{`id`}", "#$0", "#@x", "%{key}", "%w[a]", "a\nb", "a\r\nb", "\r", "\0", "\x1b[2J", "\x7f",
    "\u0085", "\u2028", "한국어", "\U0001f600", "__END__", "\n__END__\n", "=begin\n", "\n=end", "<<~X", "?", "{{ x }}",
    "{% raw %}", "' + `id` + '", "\\u{41}", "ends with \\", "", " ", "x" * 10_000,
]  # fmt: skip


class Ruby:
    """One Ruby process that evaluates literals and answers with JSON, so that thousands of values are quick."""

    PROGRAM = (
        "require 'json'; $stdout.sync = true; "
        "while (n = $stdin.gets) do "
        "code = $stdin.read(n.to_i); code.force_encoding('US-ASCII'); "
        "puts JSON.generate([instance_eval(code)].map { |v| v.is_a?(String) ? v.unpack('C*') : v }); end"
    )

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["ruby", "-W0", "-e", self.PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def evaluate(self, code: str) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        data = code.encode()
        self.process.stdin.write(f"{len(data)}\n".encode() + data)
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())[0]


@pytest.fixture(scope="module")
def ruby():
    process = Ruby()
    yield process
    process.process.kill()
    process.process.wait()


def _example_all(test):
    for value in NASTY:
        test = example(value)(test)
    return test


@settings(max_examples=400, deadline=None)
@_example_all
@given(st.text(max_size=200))
def test_any_string_is_read_back_by_ruby(ruby, value):
    written = string(value)
    assert bytes(ruby.evaluate(written)) == value.encode()
    assert "\n" not in written
    assert written.isascii()


def test_a_lone_surrogate_is_refused():
    with pytest.raises(ValueError, match="surrogate"):
        string("\ud800")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (80, "80"),
        (1.5, "1.5"),
        ({"a": [1, None, "x"]}, "{'a' => [1, nil, 'x']}"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_other_values(ruby, value, written):
    assert literal(value, reveal=True) == written
    assert ruby.evaluate(written) == value


def test_a_secret_is_masked_unless_revealed():
    secret = Secret("it's a secret")
    assert literal({"password": secret}, reveal=False) == "{'password' => '********'}"
    assert literal(secret, reveal=True) == "'it\\'s a secret'"


def test_unknown_types_are_refused():
    with pytest.raises(TypeError):
        literal(object(), reveal=False)
