"""Who writes in the lab's chat, and what: a client of Mattermost's API, and content on which things break."""

# ruff: noqa: RUF001 -- signs that look like others are wanted here

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections import Counter
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.lab.people import through_gitlab, with_password

Json = dict[str, Any]

TEXTS = (
    "Guten Morgen! Grüße aus Zürich: ÄÖÜ ß, naïve café",
    "emoji 🎉👩‍👩‍👧‍👦🏳️‍🌈 :tada: and signs ≠ ∑ 𝔘𝔫𝔦 \u200b\u200d\ufeff",
    "שלום עולם \u202eright to left\u202c مرحبا",
    "日本語のテキスト、中文，한국어",
    "e\u0301 combining, Z\u0336a\u0336l\u0336g\u0336o\u0336",
    "quotes ' '' \" ` $$ $1 %s {{x}} #{y} \\ \\' \\0 ; DROP TABLE posts; --",
    "<script>alert('x')</script> &amp; <b>bold</b>",
    '# Heading\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```ruby\nputs "#{x}"\n```\n\ttab\r\nCRLF',
    "@all @channel #hashtag ~town-square https://gitlab.lab.test/mygroup/myproject",
)
"""Texts on which careless reading, quoting or storing breaks."""
LONGEST = 16383
"""Characters of the longest post that Mattermost takes."""
NAMES = (
    "with some spaces.txt", "'single' \"double\" `back`.txt", "Ünïcödé 日本語 🎉.txt", "-rf", "--help.txt",
    "$(touch x);&|.sh", "line\nbreak.txt", "a" * 196 + ".txt", "é" * 100 + ".txt", "trailing.", ".hidden",
    "percent%20%2F..%5c.txt", "a\\b.txt", "none", "tab\there.txt",
)  # fmt: skip
"""Names of files that are odd, but allowed."""


class Person:
    """Somebody's chat client.

    Args:
        url: of Mattermost.
        ca: file with the certificate authority to trust.
        who: `username`, `password`, and whether to sign on through `gitlab`.
    """

    def __init__(self, url: str, ca: str, who: Json) -> None:
        self.api = f"{url}/api/v4"
        if who.get("gitlab"):
            self.session, page = through_gitlab(url, ca, who["username"], who["password"])
            token = self.session.cookies.get("MMAUTHTOKEN")
            if token is None:
                raise RuntimeError(f"{who['username']} could not sign on: {page.status_code} {page.text[:300]}")
            self.session.cookies.clear()
            self.session.headers["Authorization"] = f"Bearer {token}"
        else:
            self.session = with_password(url, ca, who["username"], who["password"])
        self.session.mount("https://", HTTPAdapter(pool_maxsize=16))
        self.me: Json = self.get("/users/me")
        self.id: str = self.me["id"]

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """A request, whatever comes of it."""
        return self.session.request(method, self.api + path, timeout=300, **more)

    def call(self, method: str, path: str, **more: Any) -> Any:
        """A request that must succeed; its answer.

        Raises:
            RuntimeError: when it does not.
        """
        answer = self.ask(method, path, **more)
        if answer.status_code == 500 and path == "/posts":
            # Two first answers to one post at the same moment: Mattermost makes the thread twice, and takes one back
            # ("duplicate key ... threads_pkey"). A client then sends the post again.
            answer = self.ask(method, path, **more)
        if answer.status_code not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def get(self, path: str) -> Any:
        """GET, as JSON."""
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """POST of JSON, which must succeed."""
        return self.call("POST", path, json=body)

    def upload(self, channel: str, name: str, content: bytes) -> requests.Response:
        """Send a file to a channel, to be attached to a post."""
        if content:  # as a browser does; an empty file is refused there, and taken as a form
            where = {"channel_id": channel, "filename": name}
            return self.ask("POST", "/files", params=where, data=content)
        return self.ask("POST", "/files", data={"channel_id": channel}, files={"files": (name, content)})

    def digest(self, path: str) -> str:
        """sha256 of what is downloaded, or the status that came instead."""
        with self.ask("GET", path, stream=True) as answer:
            if answer.status_code != 200:
                return f"status {answer.status_code}"
            found = hashlib.sha256()
            for block in answer.iter_content(1 << 20):
                found.update(block)
        return found.hexdigest()

    def pages(self, path: str, size: int = 200) -> list[Any]:
        """All pages of a list."""
        out: list[Any] = []
        for page in range(10_000):
            got = self.get(f"{path}?page={page}&per_page={size}")
            out += got
            if len(got) < size:
                break
        return out


def picture(rng: random.Random, side: int = 32) -> bytes:
    """A small PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + rng.randbytes(3 * side) for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def planned(rng: random.Random, small: int, megabytes: float) -> list[tuple[str, int]]:
    """Names and sizes of the files to attach: the odd ones, many small ones, and some of megabytes."""
    files = [(name, 1 + rng.randrange(2000)) for name in NAMES]
    files += [("empty.txt", 0), ("picture.png", -1), ("twice.bin", 300_000), ("twice.bin", 300_000)]
    files += [(f"small-{i}.{rng.choice(('txt', 'log', 'pdf'))}", 1 + rng.randrange(30_000)) for i in range(small)]
    left = int(megabytes * 1e6) - sum(size for _, size in files)
    while left > 0:
        size = min(left, rng.randrange(1_000_000, 8_000_000))
        files.append((f"large-{len(files)}.bin", size))
        left -= size
    rng.shuffle(files)
    return files


class Writer:
    """What one user writes: decided by the seed and the user's number, sent one after the other.

    Args:
        person: the user's client.
        number: which user, counted from 0.
        seed: of the content.
        rooms: channels that all users of this `Writer` may write to: id and a post to answer to (or "").
        emoji: names for reactions.
    """

    def __init__(self, person: Person, number: int, seed: int, rooms: list[tuple[str, str]], emoji: list[str]) -> None:
        self.person, self.rooms, self.emoji = person, rooms, emoji
        self.rng = random.Random(f"{seed} {number}")
        self.count: Counter[str] = Counter()
        self.refused: dict[str, int] = {}
        self.mine: list[Json] = []

    def text(self) -> str:
        """A message."""
        chosen = self.rng.random()
        if chosen < 0.03:
            return "".join(self.rng.choices("aä🎉 \n", k=LONGEST - 1)) + "."
        if chosen < 0.45:
            return f"{self.rng.choice(TEXTS)} {self.rng.randrange(1000)}"
        return " ".join(self.rng.choices("the lab writes posts about mail chat backup restore and so on".split(), k=12))

    def attach(self, channel: str, name: str, size: int) -> list[str]:
        """Send a file; its id, or nothing when Mattermost does not take it."""
        if size < 0:
            content = picture(self.rng, 200)
        else:
            content = random.Random(name).randbytes(size) if name == "twice.bin" else self.rng.randbytes(size)
        answer = self.person.upload(channel, name, content)
        if answer.status_code != 201:
            self.refused[name] = answer.status_code
            return []
        self.count.update(files=1, bytes=len(content))
        return [answer.json()["file_infos"][0]["id"]]

    def write(self, files: list[tuple[str, int]]) -> None:
        """One post, and what happens to it."""
        rng = self.rng
        channel, opening = rng.choice(self.rooms)
        answered = [post["id"] for post in self.mine if post["channel_id"] == channel and not post["root_id"]]
        answered += [opening] if opening else []
        root = rng.choice(answered) if answered and rng.random() < 0.25 else ""
        body = {"channel_id": channel, "root_id": root, "message": self.text()}
        if rng.random() < 0.05:
            body["props"] = {"lab": {"number": rng.randrange(9), "text": TEXTS[5]}}
        ids = [one for name, size in files for one in self.attach(channel, name, size)]
        if ids:
            body["file_ids"] = ids
            body["message"] = "" if rng.random() < 0.2 else body["message"]
        post = self.person.post("/posts", body)
        self.count.update(posts=1, replies=int(bool(root)))
        happens = rng.random()
        ordinary = all(name.startswith("small") for name, _ in files)  # the others are to be seen in a census
        if happens < 0.06:
            self.person.call("PUT", f"/posts/{post['id']}/patch", json={"message": self.text()[:9000] + " (edited)"})
            self.count["edited"] += 1
        elif ordinary and (happens < 0.12 or (ids and not self.count["deleted_with_file"])):
            self.person.call("DELETE", f"/posts/{post['id']}")
            self.count.update(deleted=1, deleted_with_file=int(bool(ids)))
            return
        elif happens < 0.15:
            self.person.post(f"/posts/{post['id']}/pin", {})
            self.count["pinned"] += 1
        self.mine.append(post)
        if rng.random() < 0.25:
            liked = rng.choice([one for one in (post["id"], opening) if one])
            mood = {"user_id": self.person.id, "post_id": liked, "emoji_name": rng.choice(self.emoji)}
            self.person.post("/reactions", mood)
            self.count["reactions"] += 1
