"""Make a :class:`~roles.site.models.Site` from a file, or say everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from roles.site import rules
from roles.site.base import descriptions
from roles.site.errors import Problem, SiteFileError
from roles.site.found import Found
from roles.site.models import Site
from roles.site.secret import SecretRef
from roles.site.yaml import Document, KeyPath, read


def load(file: str | Path) -> Site:
    """Read, validate and resolve a site file. Nothing is contacted.

    Args:
        file: the site file; messages name it as given.

    Raises:
        SiteFileError: with every problem of the file, in the order of its lines.
    """
    path = Path(file)
    document = read(path)
    problems = list(document.problems)
    site: Site | None = None
    if document.data is None or not isinstance(document.data, dict):
        if not problems:
            allowed = "the keys " + ", ".join(Site.model_fields)
            problems.append(Problem(path, 1, "", "is not a mapping of keys", allowed=allowed))
        raise SiteFileError(problems)
    try:
        site = Site.model_validate(document.data)
    except ValidationError as error:
        told = [_problem(document, details) for details in error.errors(include_url=False)]
        problems += list({(problem.line, problem.key): problem for problem in reversed(told)}.values())[::-1]
    seen = {problem.key for problem in problems}
    problems += [problem for problem in _broken(document, rules.check(document.data)) if problem.key not in seen]
    if problems or site is None:
        raise SiteFileError([problem for problem in problems if problem.message])
    site._path = path.resolve()
    site._text = document.text
    problems += _broken(document, rules.check_secrets(site, document.data))
    if problems:
        raise SiteFileError(problems)
    return site


_ALTERNATIVE = re.compile(r"^(str|function-[a-z]+\[.*\])$")


def dotted(path: KeyPath) -> str:
    """`("nodes", "a", 0)` as `nodes.a[0]`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out


def _broken(document: Document, found: typing.Iterable[Found]) -> list[Problem]:
    return [Problem(document.file, document.line(f.loc), dotted(f.loc), f.message, f.found, f.allowed) for f in found]


def _problem(document: Document, details: ErrorDetails) -> Problem:
    # Of alternatives, such as text or a reference, pydantic tells each, with its name at the end.
    loc: KeyPath = tuple(part for part in details["loc"] if part != "[key]" and not _ALTERNATIVE.match(str(part)))
    kind, context = details["type"], details.get("ctx", {})
    message, found, allowed, hint = details["msg"], _show(loc, details["input"]), "", ""
    if loc in document.broken:
        message = ""  # already told as a problem of the YAML
    elif kind == "extra_forbidden":
        names = sorted(allowed_keys(loc[:-1]))
        near = difflib.get_close_matches(str(loc[-1]), names, n=1)
        message = rules.IGNORED.get(dotted(loc), "unknown key")
        found, allowed = "", ", ".join(names)
        hint = f'did you mean "{near[0]}"?' if near else ""
    elif kind == "missing":
        message, found, allowed = "is missing", "", _describe(loc)
    elif kind in ("refused", "secret_literal"):
        found = context.get("found") or ("" if kind == "secret_literal" else found)
        allowed, hint = context.get("allowed", ""), context.get("hint", "")
    elif kind == "string_pattern_mismatch":
        message, allowed = "has not the right form", _describe(loc) or str(context.get("pattern"))
    elif kind == "literal_error":
        message, allowed = "is none of the allowed words", str(context.get("expected"))
    elif kind.endswith("_type"):
        message, allowed = "is of the wrong type", details["msg"].removeprefix("Input should be ")
    else:
        message, allowed = "is out of range", details["msg"].removeprefix("Input should be ")
    return Problem(document.file, document.line(loc), dotted(loc), message, found, allowed, hint)


def _show(loc: KeyPath, value: Any) -> str:
    if isinstance(value, SecretRef):
        return f"a secret reference ({value!r})"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if any(rules.names_secret(str(part)) for part in loc):
        return "a value (not shown)"
    return repr(value)[:200]


def _annotation(loc: KeyPath) -> Any:
    """The type at a place in the model; None when the place does not exist."""
    current: Any = Site
    for part in loc:
        current = _plain(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            if field is None:
                return None
            current = field.rebuild_annotation()
        elif typing.get_origin(current) in (dict, list):
            current = typing.get_args(current)[-1]
        else:
            return None
    return current


def _plain(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        else:
            return annotation


def allowed_keys(loc: KeyPath) -> set[str]:
    """The keys that may stand at a place in the site file; empty when any may."""
    model = _plain(_annotation(loc))
    return set(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else set()


def _describe(loc: KeyPath) -> str:
    """What may stand at a place: the `description` of its type, or its field's."""
    annotation = _annotation(loc)
    for candidate in (annotation, *typing.get_args(annotation)):
        for extra in getattr(candidate, "__metadata__", ()):
            if getattr(extra, "description", None):
                return str(extra.description)
    model = _plain(_annotation(loc[:-1]))
    said = descriptions(model) if isinstance(model, type) and issubclass(model, BaseModel) else {}
    return said.get(str(loc[-1]), "").replace("\n", " ")
