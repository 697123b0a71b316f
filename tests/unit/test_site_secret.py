"""Secrets: fetched as the references say, and never shown."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import shlex
import sys
import traceback
from pathlib import Path

import pytest

from roles.site import secret as module
from roles.site.errors import SecretError, SecretFileMissing
from roles.site.secret import MASK, CommandRef, EnvRef, FileRef, Secret, scrub
from tests.unit.site_files import PASSWORDS, SiteFiles

VALUE = 'it\'s "s3cret" \\ #{x} für/+&'


def python(code: str) -> str:
    """A command line that runs Python code."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda s: f"{s}",
        lambda s: f"{s!r:>40}",
        lambda s: "%s" % s,  # noqa: UP031
        lambda s: repr([s, {"k": s}]),
        lambda s: json.dumps({"k": s}, default=lambda o: o.to_json()),
        lambda s: str(pickle.loads(pickle.dumps(s))),
        lambda s: pickle.dumps(s).decode("latin-1"),
    ],
)
def test_a_secret_shows_a_mask(show) -> None:
    shown = show(Secret(VALUE))
    assert "s3cret" not in shown
    assert MASK in shown


def test_a_secret_can_be_used() -> None:
    value = Secret(VALUE)
    assert value.reveal() == VALUE
    assert value == Secret(VALUE)
    assert hash(value) == hash(Secret(VALUE))
    assert value != Secret("another one")
    assert value != VALUE
    assert copy.deepcopy({"k": value})["k"] is value
    with pytest.raises(TypeError):
        json.dumps({"k": value})


def test_a_loaded_site_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in PASSWORDS.items():
        monkeypatch.setenv(name, content)
    site = SiteFiles(tmp_path).load()
    assert site.mail is not None
    assert site.mail.incoming_email is not None
    assert site.secret(site.mail.incoming_email.password).reveal() in PASSWORDS.values()
    for shown in (repr(site), str(site.model_dump()), site.model_dump_json(), repr(vars(site)), repr(site._secrets)):
        assert not any(content in shown for content in PASSWORDS.values())
    assert "!env TEST_INCOMING_PASSWORD" in site.model_dump_json()


def test_a_traceback_shows_no_secret() -> None:
    value = Secret(VALUE)
    try:
        raise RuntimeError(f"login with {value} failed", value)
    except RuntimeError:
        assert "s3cret" not in traceback.format_exc()
    assert MASK in repr(traceback.StackSummary.extract(traceback.walk_stack(None), capture_locals=True)[0].locals)


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps(VALUE),
        json.dumps(VALUE, ensure_ascii=False),
        repr(VALUE),
        shlex.quote(VALUE),
        base64.b64encode(VALUE.encode()).decode(),
        base64.b64encode(VALUE.encode() + b"\n").decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip("="),
        "'" + VALUE.replace("\\", "\\\\").replace("'", "\\'") + "'",
        "it's%20%22s3cret%22%20%5C%20%23%7Bx%7D%20f%C3%BCr%2F%2B%26".replace("'", "%27"),
    ],
)
def test_scrub_finds_encodings(written: str) -> None:
    Secret(VALUE)
    scrubbed = scrub(f"before {written} after")
    assert "s3cret" not in scrubbed
    assert base64.b64encode(VALUE.encode()).decode()[:12] not in scrubbed
    assert scrubbed.startswith("before ")
    assert scrubbed.endswith(" after")
    assert MASK in scrubbed


def test_scrub_finds_what_our_ruby_writes() -> None:
    from roles.gitlab.ruby import literal

    assert "s3cret" not in scrub(literal(Secret(VALUE), reveal=True))


def test_scrub_finds_lines_of_long_secrets_and_spares_short_ones() -> None:
    Secret("-----BEGIN-----\nQUJDREVGRw==line\n-----END-----")
    assert "QUJDREVGRw" not in scrub("+ QUJDREVGRw==line")
    Secret("abc")
    assert scrub("abcdef") == "abcdef"


def test_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_VALUE", "from the environment\n")
    assert EnvRef("TEST_VALUE").resolve(tmp_path).reveal() == "from the environment\n"
    monkeypatch.setenv("TEST_VALUE", "")
    with pytest.raises(SecretError, match="empty"):
        EnvRef("TEST_VALUE").resolve(tmp_path)
    monkeypatch.delenv("TEST_VALUE")
    with pytest.raises(SecretError, match="TEST_VALUE is not set"):
        EnvRef("TEST_VALUE").resolve(tmp_path)


@pytest.mark.parametrize("name", ["A B", "1A", "", "$HOME"])
def test_env_names(name: str) -> None:
    with pytest.raises(ValueError, match="environment variable"):
        EnvRef(name)


def test_file(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "value"
    file.parent.mkdir()
    with pytest.raises(SecretFileMissing, match="does not exist"):
        FileRef("sub/value").resolve(tmp_path)
    file.write_text("two\n\n")
    file.chmod(0o600)
    assert FileRef("sub/value").resolve(tmp_path).reveal() == "two\n"
    assert FileRef("../sub/value").path(tmp_path / "other") == file
    assert FileRef(str(file)).path(Path("/elsewhere")) == file
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SecretError, match="not UTF-8") as caught:
        FileRef("sub/value").resolve(tmp_path)
    assert caught.value.__context__ is None
    with pytest.raises(SecretError, match="cannot be read"):
        FileRef("sub").resolve(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_can_read_or_change(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "value"
    file.write_text("secret value")
    file.chmod(mode)
    with pytest.raises(SecretError, match=f"mode {mode:o}.*chmod 600 .*value") as caught:
        FileRef("value").resolve(tmp_path)
    assert "secret value" not in str(caught.value)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "where").write_text("here\n")
    assert CommandRef(python("print(open('where').read())")).resolve(tmp_path).reveal() == "here\n"
    # no shell: the arguments arrive as they are
    assert CommandRef("echo $HOME ; echo x").resolve(tmp_path).reveal() == "$HOME ; echo x"


def test_a_command_that_fails_shows_stderr_but_never_stdout(tmp_path: Path) -> None:
    code = "import sys; print('half-a-secret'); print('no key: half-a-secret', file=sys.stderr); sys.exit(3)"
    command = CommandRef(python(code.replace("half-a-secret", "half-' 'a-secret")))
    with pytest.raises(SecretError, match="exit code 3") as caught:
        command.resolve(tmp_path)
    assert "no key: " in str(caught.value)
    assert "half-' 'a-secret' in" not in str(caught.value)
    told = str(caught.value).partition("exit code 3")[2]
    assert "a-secret" not in told


def test_a_command_that_hangs_is_ended_although_its_child_holds_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND_TIMEOUT", 0.5)
    child = "import subprocess, time; subprocess.Popen(['sleep', '5']); time.sleep(5)"
    with pytest.raises(SecretError, match=r"did not end within 0\.5 seconds"):
        CommandRef(python(child)).resolve(tmp_path)


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="could not be started: no-such-program"):
        CommandRef("no-such-program --decrypt").resolve(tmp_path)


def test_a_secret_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in PASSWORDS.items():
        monkeypatch.setenv(name, content)
    files = SiteFiles(tmp_path)
    count = "open('count', 'a').write('x'); print('fetched-value')"
    (tmp_path / "fetch.py").write_text(count)
    command = f'!command "{sys.executable} fetch.py"'
    site = files.load(files.changed(("!env TEST_INCOMING_PASSWORD", command)))
    assert site.mail is not None
    assert site.mail.incoming_email is not None
    for _ in range(3):
        assert site.secret(site.mail.incoming_email.password).reveal() == "fetched-value"
    assert (tmp_path / "count").read_text() == "x"


def test_references_show_themselves() -> None:
    assert repr(FileRef("a/b")) == "!file a/b"
    assert FileRef("a") == FileRef("a")
    assert FileRef("a") != EnvRef("a")
    assert len({FileRef("a"), FileRef("a"), EnvRef("a")}) == 2
