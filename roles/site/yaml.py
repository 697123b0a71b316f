"""Read the YAML of a site file: plain data plus the line of every key. Safe: no tag can make an object but a secret.

Differences from PyYAML's `safe_load`: a key that stands twice is an error (PyYAML takes the last one in silence), dates
stay text, keys must be text, and the only tags are `!env`, `!file` and `!command`. Anchors, aliases and merge keys
(`<<`) work. All problems are collected, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from roles.site.errors import Problem
from roles.site.secret import REFERENCES

KeyPath = tuple[str | int, ...]
"""Where a value stands: the keys and list positions that lead to it."""

TAGS: Final = ", ".join(REFERENCES)
"""The tags of the site file, for messages."""

MOST_VALUES: Final = 100_000
"""A file whose aliases unfold to more values than this is refused: it is a mistake or an attack. Our own choice."""

_STR: Final = "tag:yaml.org,2002:str"
_PLAIN: Final = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_TEXT: Final = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}
_MERGE: Final = "tag:yaml.org,2002:merge"


@dataclass
class Document:
    """A parsed file."""

    file: Path
    """The file, as the caller named it."""
    text: bytes = b""
    """What is in it."""
    data: Any = None
    """The content: dict, list, str, int, float, bool, None and `SecretRef`."""
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """Line (from 1) of each key, and of each list item."""
    text_lines: dict[KeyPath, int] = field(default_factory=dict)
    """For block texts (`|`): line of their first line of text."""
    problems: list[Problem] = field(default_factory=list)
    """What was wrong with the YAML itself."""
    broken: set[KeyPath] = field(default_factory=set)
    """Paths whose value could not be read; they are None in `data`, and need no second complaint."""

    def line(self, path: KeyPath) -> int:
        """Line of a key, or of the nearest key above it that exists; 1 for the whole file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(file: Path) -> Document:
    """Read and parse a file. Problems, also an unreadable file, are in the result; nothing is raised."""
    document = Document(file)
    try:
        document.text = raw = file.read_bytes()
    except OSError as error:
        document.problems.append(
            Problem(file, 0, "", f"cannot be read: {error.strerror}", hint="name an existing site file")
        )
        return document
    try:
        node = _compose(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        document.problems.append(Problem(file, line, "", "is not UTF-8 text", hint="save it as UTF-8"))
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "put a value that contains %{key} into quotes" if "'%'" in what else ""
        document.problems.append(
            Problem(file, mark.line + 1 if mark else 0, "", f"is not valid YAML: {what}", hint=hint)
        )
        return document
    except yaml.YAMLError as error:
        what = str(getattr(error, "reason", "")) or type(error).__name__
        document.problems.append(Problem(file, 0, "", f"is not valid YAML: {what}"))
        return document
    if node is None:
        document.problems.append(Problem(file, 1, "", "is empty", hint="start from inventories/example/site.yml"))
        return document
    document.data = _Builder(document).build(node, ())
    return document


def _compose(text: str) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


_SURROGATE = re.compile("[\ud800-\udfff]")
"""JSON writes a rare character as two such escapes; in YAML each stands for itself, and no UTF-8 text can hold it."""


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = yaml.constructor.SafeConstructor()
        self.open: set[int] = set()
        self.count = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if id(node) in self.open or self.count > MOST_VALUES:
            if self.count <= MOST_VALUES + 1:
                self.problem(node, path, "an alias contains itself or unfolds to too many values")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
                return self.problem(node, path, "holds half a character", hint="write it itself, or as \\UXXXXXXXX")
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self.sequence(node, path)
            return self.scalar(node, path)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> Any:
        if node.tag != "tag:yaml.org,2002:map":
            return self.unknown_tag(node, path)
        out: dict[str, Any] = {}
        for key, key_node, value in self.pairs(node, path):
            inner = (*path, key)
            line = key_node.start_mark.line + 1
            if key in out:
                first = self.document.lines[inner]
                self.problem(key_node, inner, f"stands twice, on lines {first} and {line}", hint="remove one of them")
                continue
            self.document.lines[inner] = line
            out[key] = self.build(value, inner)
        return out

    def pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """The entries with text keys, own ones first, then those of merge keys that are not overridden."""
        merged: list[yaml.MappingNode] = []
        own: set[str] = set()
        merge_line = 0
        for key_node, value in node.value:
            if key_node.tag == _MERGE:
                if merge_line:
                    self.problem(
                        key_node,
                        path,
                        f"<< stands twice, on lines {merge_line} and {key_node.start_mark.line + 1}",
                    )
                merge_line = key_node.start_mark.line + 1
                merged += self.merge_sources(value, path)
            elif isinstance(key_node, yaml.ScalarNode) and _SURROGATE.search(key_node.value):
                self.problem(key_node, path, "a key holds half a character", hint="write it itself, or as \\UXXXXXXXX")
            elif isinstance(key_node, yaml.ScalarNode) and key_node.tag in {_STR, *_TEXT}:
                own.add(key_node.value)
                yield key_node.value, key_node, value
            else:
                found = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a mapping or list"
                hint = f'write it in quotes: "{found}"' if isinstance(key_node, yaml.ScalarNode) else ""
                self.problem(key_node, path, "a key must be text", found=found, hint=hint)
        for source in merged:
            if id(source) in self.open:
                self.problem(node, path, "an alias contains itself or unfolds to too many values")
                continue
            self.open.add(id(source))
            for key, key_node, value in self.pairs(source, path):
                if key not in own:
                    own.add(key)
                    yield key, key_node, value
            self.open.discard(id(source))

    def merge_sources(self, value: yaml.Node, path: KeyPath) -> list[yaml.MappingNode]:
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        sources = [item for item in items if isinstance(item, yaml.MappingNode)]
        if len(sources) != len(items):
            self.problem(value, path, "<< takes a mapping or a list of mappings")
        return sources

    def sequence(self, node: yaml.SequenceNode, path: KeyPath) -> Any:
        if node.tag != "tag:yaml.org,2002:seq":
            return self.unknown_tag(node, path)
        out = []
        for index, item in enumerate(node.value):
            self.document.lines[(*path, index)] = item.start_mark.line + 1
            out.append(self.build(item, (*path, index)))
        return out

    def scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        reference = REFERENCES.get(node.tag)
        if reference is not None:
            try:
                return reference(str(node.value))
            except ValueError as error:
                return self.problem(node, path, str(error))
        if node.tag in _TEXT:
            return node.value
        if node.tag not in _PLAIN:
            return self.unknown_tag(node, path)
        if getattr(node, "style", None) == "|":
            self.document.text_lines[path] = node.start_mark.line + 2
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError):
            return self.problem(node, path, f"is not a valid {node.tag.rpartition(':')[2]}", found=str(node.value))

    def unknown_tag(self, node: yaml.Node, path: KeyPath) -> None:
        hint = "a secret is written as a tag and one text" if node.tag in REFERENCES else ""
        message = f"the tag {node.tag} takes one text" if hint else f"unknown tag {node.tag}"
        self.problem(node, path, message, allowed=TAGS, hint=hint)

    def problem(self, node: yaml.Node, path: KeyPath, message: str, **more: str) -> None:
        self.document.broken.add(path)
        key = ".".join(str(part) for part in path)
        self.document.problems.append(Problem(self.document.file, node.start_mark.line + 1, key, message, **more))
