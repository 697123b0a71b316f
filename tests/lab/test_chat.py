"""The lab's own chat generator and reader: what other tests of backups and upgrades rely on."""

from __future__ import annotations

import pytest

from tests.lab import chat
from tests.lab.chat_writer import NAMES, Json
from tests.lab.image import LAB
from tests.lab.site import LabSite
from tests.lab.test_mattermost import URL, secret, sql

pytestmark = pytest.mark.lab

WHERE: Json = {"url": URL, "ca": str(LAB / "ca" / "ca.crt")}


def login(who: Json) -> Json:
    """What `census` and `write` want to know of a user that `fill` has returned."""
    return {**WHERE, **{key: who[key] for key in ("username", "password", "gitlab")}}


@pytest.fixture(scope="module")
def filled(site: LabSite) -> Json:
    """What was written, in a chat that was empty."""
    admin = {"username": "admin", "password": secret("mattermost_admin_password")}
    users = chat.chat_users(site.lab, 2)
    done: Json = chat.use(site.lab, "fill", **WHERE, admin=admin, gitlab=users, users=2, posts=120, megabytes=5)
    return done


def posts(census: Json) -> list[Json]:
    """Every post in it."""
    return [post for channel in census["channels"].values() for post in channel["posts"].values()]


def test_all_that_was_written_is_read_and_read_the_same_twice(site: LabSite, filled: Json) -> None:
    assert filled["posts"] == 120
    assert filled["refused"] == {}
    assert filled["bytes"] > 4_900_000
    assert {user["gitlab"] for user in filled["users"]} == {True, False}
    seen = [chat.use(site.lab, "census", **login(user)) for user in filled["users"]]
    assert [chat.use(site.lab, "census", **login(user)) for user in filled["users"]] == seen
    files = {file["id"]: file for census in seen for post in posts(census) for file in post["files"]}
    assert all(len(file["sha256"]) == 64 for file in files.values())
    names = {file["name"] for file in files.values()}
    assert set(NAMES) | {"empty.txt"} <= names
    ids = {key for census in seen for one in census["channels"].values() for key, p in one["posts"].items()}
    rows = sql(site, "SELECT id FROM posts WHERE deleteat = 0 AND channelid IN (SELECT channelid FROM channelmembers)")
    assert ids <= set(rows), "nothing that is not in the database"
    assert len(ids) >= 120 - filled["deleted"]


def test_a_census_differs_after_one_change(site: LabSite, filled: Json) -> None:
    who = filled["users"][0]
    before = chat.use(site.lab, "census", **login(who))
    message = next(key for one in before["channels"].values() for key, post in one["posts"].items() if not post["type"])
    change = "UPDATE posts SET message = message || $$x$$ WHERE id = $${}$$"
    sql(site, change.format(message))
    after = chat.use(site.lab, "census", **login(who))
    assert after != before
    different = [key for key in before["channels"] if before["channels"][key] != after["channels"][key]]
    assert len(different) == 1
    file = next(file for post in posts(after) for file in post["files"] if file["size"] > 0)
    (path,) = sql(site, "SELECT path FROM fileinfo WHERE id = $${}$$".format(file["id"]))
    site.lab.sh("chat-1", f"printf X >> '/var/lib/mattermost/data/{path}'")
    assert chat.use(site.lab, "census", **login(who)) != after, "another file"


def test_writing_goes_on_until_a_file_is_there(site: LabSite, filled: Json) -> None:
    stop = LAB / "tests" / "stop-writing"
    stop.touch()
    try:
        assert chat.use(site.lab, "write", **login(filled["users"][0]), seconds=60, until=str(stop))["posts"] == []
    finally:
        stop.unlink()
    done = chat.use(site.lab, "write", **login(filled["users"][0]), seconds=1)
    assert done["posts"]
    assert done["failed"] == []
    census = chat.use(site.lab, "census", **login(filled["users"][0]))
    seen = census["channels"][done["channel"]]["posts"]
    for post in done["posts"]:
        assert seen[post["id"]]["files"][0]["sha256"] == post["sha256"]


def test_posts_made_with_sql_are_read_by_mattermost(site: LabSite, filled: Json) -> None:
    who = filled["users"][0]
    before = len(posts(chat.use(site.lab, "census", **login(who))))
    site.lab.sh(
        "db-1", "runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d mattermost", stdin=chat.sql_posts(2000)
    )
    assert len(posts(chat.use(site.lab, "census", **login(who)))) > before + 200
