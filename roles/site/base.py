"""What all models of the site file share: strictness, common types, and how a validator refuses a value."""

from __future__ import annotations

import ast
import inspect
import ipaddress
import re
from collections.abc import Callable
from itertools import pairwise
from textwrap import dedent
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class StrictModel(BaseModel):
    """A part of the site file: no unknown keys, no conversion of one type into another, not changeable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,  # a literal secret in the wrong place must not be printed
        validate_default=True,
    )


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What each field of a model says of itself, else what stands under it.

    pydantic can collect the latter, but would do so for all models in every run.
    """
    out: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if not issubclass(part, StrictModel):
            continue
        source = ast.parse(dedent(inspect.getsource(part))).body[0]
        assert isinstance(source, ast.ClassDef)
        for field, text in pairwise(source.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    out[name] = inspect.cleandoc(said)
    return out | {name: field.description for name, field in model.model_fields.items() if field.description}


def refuse(message: str, *, allowed: str = "", hint: str = "", found: str = "") -> PydanticCustomError:
    """A validator's error: what is wrong, what is allowed, what to do. `found` replaces the value's own text."""
    return PydanticCustomError(
        "refused", "{message}", {"message": message, "allowed": allowed, "hint": hint, "found": found}
    )


def matching(pattern: str, allowed: str) -> tuple[AfterValidator, object]:
    """Annotations of a text that has to match a regular expression as a whole; `allowed` says so in words."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise refuse("not allowed", allowed=allowed)
        return value

    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


def is_hostname(value: str) -> bool:
    """Whether `value` is an IP address (4 or 6) or a host name (RFC 1123; underscores are let through)."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", value):
            return False  # 198.18.0.300 is no name either
        return len(value) <= 253 and re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*\.?", value) is not None
    return True


def _hostname(value: str) -> str:
    if not is_hostname(value):
        raise refuse("is not a host name or IP address", allowed="a host name or IP address, without scheme or port")
    return value


def url_checker(trailing_slash: bool) -> Callable[[str], str]:
    """A validator of absolute http(s) URLs.

    Args:
        trailing_slash: True takes a trailing "/" and drops it; False refuses it.
    """

    def check(value: str) -> str:
        allowed = "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]"
        try:
            url = urlsplit(value)
            port_is_valid = url.port is None or url.port > 0
        except ValueError:
            raise refuse("is not a URL", allowed=allowed) from None
        if (
            url.scheme not in ("http", "https")
            or not url.hostname
            or not is_hostname(url.hostname)
            or not port_is_valid
        ):
            raise refuse("is not an absolute http(s) URL", allowed=allowed)
        if url.username is not None or url.password is not None:
            raise refuse("must not contain a user name or password", allowed=allowed, found="a URL with credentials")
        if url.query or url.fragment or not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
            raise refuse("must have no query, fragment, spaces or non-ASCII characters", allowed=allowed)
        if value.endswith("/") and not trailing_slash:
            raise refuse('must not end in "/"', allowed=allowed, hint=f'write "{value.rstrip("/")}"')
        return value.rstrip("/")

    return check


Hostname = Annotated[str, AfterValidator(_hostname)]
"""A host name or an IP address (4 or 6)."""

NodeName = Annotated[
    str,
    *matching(
        r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
        "small letters, digits and inner hyphens, at most 63 characters",
    ),
]
"""Name of a node: what pyinfra shows and `--limit` takes."""

AbsoluteURL = Annotated[str, AfterValidator(url_checker(trailing_slash=True))]
"""An absolute http or https URL; a trailing "/" is dropped."""

SlashlessURL = Annotated[str, AfterValidator(url_checker(trailing_slash=False))]
"""An absolute http or https URL that must not end in "/"."""

Port = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""
