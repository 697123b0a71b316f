"""Secrets: references in the site file, values that do not show themselves, and a scrubber for everything else.

In the site file a secret is never a value but a reference to one:

    password: !env GITLAB_MAIL_PASSWORD          # an environment variable
    password: !file secrets/mail_password        # a file, relative to the site file, mode 0600
    password: !command "sops -d secrets/mail"    # what a program prints; no shell

`SecretRef.resolve(directory)` fetches the value as a `Secret`. Code normally asks `site.secret(ref)`, which does so
once per site. A `Secret` shows `********` wherever it is printed, formatted, serialised or pickled; only `.reveal()`
gives the value. Every `Secret` made is remembered, so `scrub(text)` can mask all known values in foreign text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shlex
import stat
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, quote_plus

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from roles.site.errors import SecretError, SecretFileMissing

MASK: Final = "********"
"""What is shown in place of a secret."""

COMMAND_TIMEOUT: Final = 60.0
"""Seconds that a `!command` may take, long enough to type a passphrase. Our own choice."""

SHORTEST: Final = 4
"""Values shorter than this many characters are not scrubbed: masking them would make any text unreadable."""

_HASH_KEY: Final = os.urandom(32)


class Secret:
    """A secret value that shows `********` everywhere except in `reveal()`."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value
        register(value)

    def reveal(self) -> str:
        """The value itself. Call it as late as possible and never put the result into a message."""
        return self.__value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def to_json(self) -> str:
        """What pyinfra's own JSON encoder shows (pyinfra_cli/util.py, `json_encode`)."""
        return MASK

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (MASK,))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self.__value), _bytes(other.__value))

    def __hash__(self) -> int:
        return hash(hmac.new(_HASH_KEY, _bytes(self.__value), hashlib.sha256).digest())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(lambda _: MASK)
        )


class SecretRef(ABC):
    """A reference to a secret. Its `repr` is the reference as written in the site file, never a value."""

    __slots__ = ("argument",)

    tag: ClassVar[str]
    """The YAML tag, such as `!env`."""

    def __init__(self, argument: str) -> None:
        self.argument = argument
        """What stands behind the tag: a variable's name, a path, a command line."""
        if not argument.strip():
            raise ValueError(f"{self.tag} needs {self.wants}")

    wants: ClassVar[str]
    """What has to stand behind the tag, for messages."""

    @abstractmethod
    def _fetch(self, directory: Path) -> str: ...

    def resolve(self, directory: Path) -> Secret:
        """Fetch the value.

        Args:
            directory: what relative paths are relative to, and where a command runs: the site file's directory.

        Raises:
            SecretFileMissing: the file of `!file` does not exist.
            SecretError: the value cannot be had for another reason, or is empty.
        """
        value = self._fetch(directory)
        if not value:
            raise SecretError(f"{self} gives an empty value. Put the secret there.")
        return Secret(value)

    def __repr__(self) -> str:
        return f"{self.tag} {self.argument}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, SecretRef) and other.argument == self.argument

    def __hash__(self) -> int:
        return hash((self.tag, self.argument))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any) -> SecretRef:
            if isinstance(value, cls):
                return value
            raise PydanticCustomError(
                "secret_literal",
                "a literal stands where a secret belongs",
                {
                    "found": "a value (not shown)",
                    "allowed": '!env NAME, !file PATH or !command "PROGRAM ARGUMENTS"',
                    "hint": "replace it, and change the secret: it was written in a file that is meant to be shared",
                },
            )

        return core_schema.no_info_plain_validator_function(
            check, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # JSON Schema cannot express YAML tags: editors see the text behind the tag.
        return {
            "type": "string",
            "description": 'A secret: !env NAME, !file PATH or !command "PROGRAM ARGUMENTS".',
        }


class EnvRef(SecretRef):
    """`!env NAME`: the value of an environment variable of the pyinfra process."""

    __slots__ = ()
    tag = "!env"
    wants = "the name of an environment variable"

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", argument):
            raise ValueError(f"{argument!r} is not a name of an environment variable")

    def _fetch(self, directory: Path) -> str:
        value = os.environ.get(self.argument)
        if value is None:
            raise SecretError(f"the environment variable {self.argument} is not set. Export it before the run.")
        return value


class FileRef(SecretRef):
    """`!file PATH`: the content of a file, without one trailing newline. Others must not be able to read it."""

    __slots__ = ()
    tag = "!file"
    wants = "a path, relative to the site file"

    def path(self, directory: Path) -> Path:
        """The file, as an absolute path (`~` expanded, relative to `directory`)."""
        return Path(os.path.normpath(directory / Path(self.argument).expanduser()))

    def _fetch(self, directory: Path) -> str:
        path = self.path(directory)
        data, mode, reason = b"", 0, ""
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read()
        except FileNotFoundError:
            raise SecretFileMissing(f"the file {path} does not exist. Make it, with mode 600.") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
        if reason:
            raise SecretError(f"the file {path} cannot be read: {reason}.")
        if stat.S_ISREG(mode) and mode & 0o066:
            raise SecretError(
                f"the file {path} can be read or changed by others (mode {stat.S_IMODE(mode):o}). "
                f"Run: chmod 600 {shlex.quote(str(path))}"
            )
        return _text(data, f"the file {path}")


class CommandRef(SecretRef):
    """`!command "PROGRAM ARGUMENTS"`: what a program prints, without one trailing newline. There is no shell."""

    __slots__ = ()
    tag = "!command"
    wants = "a command line"

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        shlex.split(argument)

    def _fetch(self, directory: Path) -> str:
        words = shlex.split(self.argument)
        reason = ""
        try:
            process = subprocess.Popen(
                words,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
        if reason:
            raise SecretError(f"{self} could not be started: {words[0]}: {reason}.")
        try:
            out, err = process.communicate(timeout=COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            # Its children may hold the pipes open for ever, so what they print is not waited for.
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait()
            raise SecretError(f"{self} did not end within {COMMAND_TIMEOUT:g} seconds.") from None
        if process.returncode != 0:
            shown = err.decode("utf-8", "replace").strip()
            for line in out.decode("utf-8", "replace").splitlines():
                if len(line.strip()) >= SHORTEST:
                    shown = shown.replace(line.strip(), MASK)
            told = "\n".join(scrub(shown).splitlines()[-10:]) or "it printed nothing on stderr"
            raise SecretError(f"{self} failed with exit code {process.returncode}: {told}")
        return _text(out, f"the output of {self}")


REFERENCES: Final[dict[str, type[SecretRef]]] = {ref.tag: ref for ref in (EnvRef, FileRef, CommandRef)}
"""The YAML tags of the site file and the references they make."""


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _text(data: bytes, origin: str) -> str:
    text: str | None = None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None:  # raised here and not above: the decoder's error holds the bytes
        raise SecretError(f"{origin} is not UTF-8 text.")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def register(value: str) -> None:
    """Remember a secret value, so that `scrub` masks it. Every `Secret` does this by itself."""
    global _pattern
    if len(value) >= SHORTEST and value not in _known:
        _known.add(value)
        _pattern = None


def scrub(text: str) -> str:
    """`text` with every known secret replaced by `********`.

    Also found: the value as Ruby, JSON, Python, shell, URL and base64 write it, and each longer line of a value of
    several lines. Not found: hashes, and parts of a value.
    """
    global _pattern
    if not _known:
        return text
    if _pattern is None:
        shapes = {shape for value in _known for shape in _shapes(value) if len(shape) >= SHORTEST}
        _pattern = re.compile("|".join(re.escape(shape) for shape in sorted(shapes, key=len, reverse=True)))
    return _pattern.sub(MASK, text)


def _shapes(value: str) -> set[str]:
    data = _bytes(value)
    single = value.replace("\\", "\\\\").replace("'", "\\'")
    double = json.dumps(value, ensure_ascii=False)[1:-1]
    shapes = {
        value,
        single,
        double,
        re.sub(r"#(?=[{$@])", r"\\#", double),  # Ruby's String#inspect
        double.replace("#", "\\#"),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        shlex.quote(value),
        value.replace("'", "'\"'\"'"),
        value.replace("'", "'\\''"),
        value.replace("'", "''"),  # YAML and SQL
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
        "".join(
            c if " " <= c <= "~" and c not in '\\"#' else f"\\{c}" if c in '\\"#' else f"\\u{{{ord(c):x}}}"
            for c in value
        ),
    }
    for content in (data, data + b"\n"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(content).decode()
            shapes |= {encoded, encoded.rstrip("=")}
    if "\n" in value:
        shapes |= {line for line in value.splitlines() if len(line) >= 8}
    return shapes
