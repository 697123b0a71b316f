"""Fill a Mattermost with content, and read back all that somebody sees of it: its real API over HTTPS, TLS verified.

usage: python -m tests.lab.chat COMMAND    arguments as one JSON object on standard input, answer as JSON

What is written follows from `seed` alone; ids and times are the server's. `use` runs a command in the lab's network.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from tests.lab.chat_writer import TEXTS, Json, Person, Writer, picture, planned
from tests.lab.lab import Lab


def fill(
    url: str, ca: str, admin: Json, gitlab: list[Json] | None = None, users: int = 4, posts: int = 300,
    megabytes: float = 20, seed: int = 1, workers: int = 6,
) -> Json:  # fmt: skip
    """Write teams, channels, users, posts and files. Once per seed: a second time, the names are taken.

    Args:
        url: of Mattermost.
        ca: file with the certificate authority to trust.
        admin: `username` and `password` of a system administrator.
        gitlab: users that sign on through GitLab (`chat_users`).
        users: how many users with a password to make besides.
        posts: how many posts.
        megabytes: how much in files, about.
        seed: what is written follows from it.
        workers: how many users write at the same time.

    Returns:
        Counts; `users`: `username`, `password`, `gitlab`, `id`; `channels` and `teams`: ids; `refused`: file names that
        Mattermost did not take, with its status.
    """
    rng = random.Random(seed)
    boss = Person(url, ca, admin)
    people: list[Json] = [{**one, "gitlab": True} for one in gitlab or []]
    for i in range(users):
        one = {"username": f"person-{seed}-{i}", "password": f"Pass word {seed} {i} ' \" \\ ü", "gitlab": False}
        boss.post("/users", {**one, "email": f"person-{seed}-{i}@lab.test", "first_name": "Ünï", "last_name": "O'Neil"})
        people.append(one)
    with ThreadPoolExecutor(workers) as pool:
        clients = list(pool.map(lambda who: Person(url, ca, who), people))
        for who, client in zip(people, clients, strict=True):
            who["id"] = client.id
        boss.call("POST", "/emoji", data={"emoji": json.dumps({"creator_id": boss.id, "name": f"lab{seed}"})},
                  files={"image": ("emoji.png", picture(rng))})  # fmt: skip
        clients[0].call("POST", f"/users/{clients[0].id}/image", files={"image": ("me.png", picture(rng, 128))})
        rooms: list[list[tuple[str, str]]] = [[] for _ in people]
        teams: list[str] = []
        channels: list[str] = []
        for t in range(max(2, -(-len(people) // 40))):  # TeamSettings.MaxUsersPerTeam is 50
            team = {"name": f"team-{seed}-{t}", "display_name": f"Team {t} “ü”", "type": "OI"[t % 2]}
            teams.append(boss.post("/teams", team)["id"])
            inside = [i for i in range(len(people)) if len(people) <= 40 or i // 40 == t]
            members = [{"team_id": teams[t], "user_id": people[i]["id"]} for i in inside]
            list(pool.map(lambda member: boss.post(f"/teams/{member['team_id']}/members", member), members))
            for c in range(5):
                channel = {"team_id": teams[t], "name": f"room-{seed}-{t}-{c}", "display_name": f"Room {c} 'é'",
                           "type": "OOOPP"[c], "header": TEXTS[c], "purpose": "to be read"}  # fmt: skip
                made = boss.post("/channels", channel)["id"]
                opening = boss.post("/posts", {"channel_id": made, "message": f"Opening of {c}: {TEXTS[c + 1]}"})["id"]
                there = inside if c < 3 else inside[c % 2 :: 2]
                path = f"/channels/{made}/members"
                list(pool.map(lambda i, path=path: boss.post(path, {"user_id": people[i]["id"]}), there))
                for i in there:
                    rooms[i].append((made, opening))
                channels.append(made)
        for i, client in enumerate(clients):
            other = clients[(i + 1) % len(clients)]
            made = client.post("/channels/direct", [client.id, other.id])["id"]
            rooms[i].append((made, ""))
            channels.append(made)
        if len(clients) > 2:
            made = clients[0].post("/channels/group", [client.id for client in clients[:3]])["id"]
            for i in range(3):
                rooms[i].append((made, ""))
            channels.append(made)
        emoji = ["+1", "tada", f"lab{seed}"]
        writers = [Writer(one, i, seed, rooms[i], emoji) for i, one in enumerate(clients)]
        files = planned(rng, posts // 6, megabytes)
        work: list[list[list[tuple[str, int]]]] = [
            [[] for _ in range(i, posts, len(people))] for i in range(len(people))
        ]
        for i, file in enumerate(files):
            own = work[i % len(work)]
            own[i // len(work) % len(own)].append(file)

        def all_of(i: int) -> None:
            for attached in work[i]:
                writers[i].write(attached[:10])  # the most that a post can have

        list(pool.map(all_of, range(len(people))))
    total: Counter[str] = sum((one.count for one in writers), Counter())
    refused = {name: status for one in writers for name, status in one.refused.items()}
    return {**total, "users": people, "teams": teams, "channels": sorted(set(channels)), "refused": refused}


def census(url: str, ca: str, username: str, password: str, gitlab: bool = False, workers: int = 6) -> Json:
    """Everything that a user sees, in a form that can be compared with ==. An administrator sees deleted posts too."""
    person = Person(url, ca, {"username": username, "password": password, "gitlab": gitlab})
    deleted = "true" if "system_admin" in person.me["roles"] else "false"
    teams = {team["id"]: [team["name"], team["display_name"], team["type"]] for team in person.get("/users/me/teams")}
    found = {one["id"]: one for team in teams for one in person.get(f"/users/me/teams/{team}/channels")}
    with ThreadPoolExecutor(workers) as pool:

        def one_channel(channel: Json) -> Json:
            posts: dict[str, Json] = {}
            for page in range(100_000):
                path = f"/channels/{channel['id']}/posts?page={page}&per_page=200&include_deleted={deleted}"
                got = person.get(path)
                posts |= got["posts"]
                if len(got["order"]) < 200:
                    break
            members = person.pages(f"/channels/{channel['id']}/members")
            return {
                **{key: channel[key] for key in ("team_id", "name", "display_name", "type", "header", "delete_at")},
                "members": sorted(member["user_id"] for member in members),
                "posts": {key: _seen(post) for key, post in posts.items()},
            }

        channels = dict(zip(found, pool.map(one_channel, found.values()), strict=True))
        files = [file for channel in channels.values() for post in channel["posts"].values() for file in post["files"]]
        for file, digest in zip(
            files, pool.map(lambda file: person.digest(f"/files/{file['id']}"), files), strict=True
        ):
            file["sha256"] = digest
        emoji = {one["name"]: person.digest(f"/emoji/{one['id']}/image") for one in person.pages("/emoji")}
    me = {key: person.me.get(key, "") for key in ("id", "username", "email", "auth_service", "roles")}
    me["picture"] = person.digest(f"/users/{person.id}/image")
    return {"me": me, "teams": teams, "channels": channels, "emoji": emoji}


def _seen(post: Json) -> Json:
    more = post.get("metadata") or {}
    reactions = [[one["user_id"], one["emoji_name"], one["create_at"]] for one in more.get("reactions") or []]
    files = [{key: file[key] for key in ("id", "name", "size")} for file in more.get("files") or []]
    return {
        **{key: post[key] for key in ("user_id", "root_id", "type", "create_at", "edit_at", "delete_at", "is_pinned")},
        "message": hashlib.sha256(post["message"].encode()).hexdigest(),
        "props": hashlib.sha256(json.dumps(post["props"], sort_keys=True).encode()).hexdigest(),
        "reactions": sorted(reactions),
        "files": sorted(files, key=lambda file: str(file["id"])),
    }


def write(
    url: str, ca: str, username: str, password: str, gitlab: bool = False, seconds: float = 10, until: str = "",
    channel: str = "", size: int = 20_000, workers: int = 2,
) -> Json:  # fmt: skip
    """Keep writing posts with a file, for `seconds` or until the file `until` is there.

    Returns:
        `posts`: what Mattermost has confirmed with 201 (`id`, `file`, `sha256` of the file, `create_at`); `failed`:
        time and reason of what it has not; `channel`: where (default: the first channel of the first team).
    """
    person = Person(url, ca, {"username": username, "password": password, "gitlab": gitlab})
    if not channel:
        team = person.get("/users/me/teams")[0]["id"]
        channel = person.get(f"/teams/{team}/channels/name/town-square")["id"]
    end, lock = time.monotonic() + seconds, threading.Lock()
    done: list[Json] = []
    failed: list[list[Any]] = []

    def keep_on(worker: int) -> None:
        rng = random.Random(worker)
        number = 0
        while time.monotonic() < end and not (until and Path(until).exists()):
            number += 1
            content = rng.randbytes(size)
            try:
                sent = person.upload(channel, f"load-{worker}-{number}.bin", content)
                file = sent.json()["file_infos"][0]["id"]
                body = {"channel_id": channel, "message": f"load {worker} {number}", "file_ids": [file]}
                post = person.post("/posts", body)
            except (requests.RequestException, RuntimeError, KeyError) as reason:
                with lock:
                    failed.append([time.time(), str(reason)[:300]])
                time.sleep(0.2)
                continue
            digest = hashlib.sha256(content).hexdigest()
            with lock:
                done.append({"id": post["id"], "file": file, "sha256": digest, "create_at": post["create_at"]})

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(keep_on, range(workers)))
    return {"channel": channel, "posts": sorted(done, key=lambda one: one["create_at"]), "failed": failed}


def sql_posts(count: int, seed: int = 1) -> str:
    """SQL that puts `count` posts into a Mattermost database (9.9 to 11.4), spread over its channels and their members.

    Run it as the database's owner, with nobody's client open: the server's caches do not know of it.
    """
    return f"""\
BEGIN;
CREATE TEMPORARY TABLE seats ON COMMIT DROP AS
  SELECT row_number() OVER (ORDER BY m.channelid, m.userid) - 1 AS seat, m.channelid, m.userid
  FROM channelmembers m JOIN channels c ON c.id = m.channelid WHERE c.type IN ('O', 'P') AND c.deleteat = 0;
INSERT INTO posts (id, createat, updateat, deleteat, userid, channelid, rootid, originalid, message, type, props,
                   hashtags, filenames, fileids, hasreactions, editat, ispinned, remoteid)
  SELECT left(md5('{seed:d} ' || i), 26), t, t, 0, s.userid, s.channelid, '', '',
         'post ' || i || ' about ' || md5(i::text) || ' ' || repeat(left(md5((i % 97)::text), 7) || ' ', 1 + i % 20),
         '', '{{}}', '', '[]', '[]', false, 0, false, NULL
  FROM generate_series(1, {count:d}) i
  CROSS JOIN LATERAL (SELECT (extract(epoch FROM now()) * 1000)::bigint - 1000 * ({count:d} - i) AS t) times
  JOIN seats s ON s.seat = i % (SELECT count(*) FROM seats);
UPDATE channels c SET totalmsgcount = totalmsgcount + n, totalmsgcountroot = totalmsgcountroot + n,
                      lastpostat = greatest(lastpostat, t), lastrootpostat = greatest(lastrootpostat, t)
  FROM (SELECT channelid, count(*) AS n, max(createat) AS t FROM posts p
        WHERE p.id IN (SELECT left(md5('{seed:d} ' || i), 26) FROM generate_series(1, {count:d}) i) GROUP BY 1) new
  WHERE new.channelid = c.id;
COMMIT;
ANALYZE posts;
"""


def chat_users(lab: Lab, count: int) -> list[Json]:
    """Users chatter-1 ... in the stand-in GitLab (kept when they are there), as `fill` and `census` want them."""
    names = [f"chatter-{i}" for i in range(1, count + 1)]
    script = "".join(
        f"User.find_by_username('{name}') || User.create!(username: '{name}', name: 'Chat {name}', "
        f"email: '{name}@lab.test', password: 'password-of-{name}-in-the-lab')\n"
        for name in names
    )
    lab.sh("gitlab-1", "gitlab-rails runner -", stdin=script)
    return [{"username": name, "password": f"password-of-{name}-in-the-lab", "gitlab": True} for name in names]


def use(lab: Lab, command: str, timeout: float = 600, **asked: Any) -> Any:
    """Run a command of this module in the lab's network; its answer.

    Raises:
        RuntimeError: when it fails, with the end of what it said.
    """
    done = lab.run([sys.executable, "-m", "tests.lab.chat", command], stdin=json.dumps(asked), timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"chat {command}: {done.stderr[-1500:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.load(sys.stdin)), sort_keys=True))
