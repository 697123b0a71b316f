"""Runs on a node, as root: restores the last good backup beside what is there, damages the copy in one way after the
other, and tells which checks then fail. Standard input: nothing; answer: JSON, `{damage: [names of failed checks]}`."""

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, "/usr/local/lib/mattermost-backup")
from program import config, manifest, restore, take
from program import database as db

settings = config.load()
name = restore.side(settings)
aside = Path(take.asides(settings)[0])
aside.mkdir(mode=0o700)
answer = {}


def failed(what):
    checks = []
    there = {row[0]: take.files.entry(str(home) + row[0][len(settings.home) :]) for row in inside}
    checks += manifest.of_files(inside, there)
    restore._prove(settings, what, {}, home / "data", checks)
    return sorted(one["name"] for one in checks if not one["ok"])


def sql(*statements):
    with db.connect(settings, name) as connection:
        for statement in statements:
            connection.execute(statement)


try:
    what, hashes = restore._fetch(settings, {"backup": "latest"}, aside, [])
    home = aside / "home"
    inside = [row for row in what["files"] if row[0].startswith(settings.home + "/")]
    with db.connect(settings, settings.database.maintenance) as connection:
        db.create(connection, name)
    db.restore(settings, name, take.staged(aside / "snapshot") / manifest.DUMP)
    answer["nothing"] = failed(what)
    with db.connect(settings, name) as connection, connection.transaction():
        one = next(one for one in db.references(connection) if one.size > 1000)
    path, kept = home / "data" / one.path, aside / "kept"
    shutil.copy2(path, kept)
    path.unlink()
    answer["a file is missing"] = failed(what)
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    shutil.copymode(kept, path)
    answer["one byte is another"] = failed(what)
    path.write_bytes(kept.read_bytes()[:-1])
    answer["the last byte is missing"] = failed(what)
    shutil.copy2(kept, path)
    os.chmod(path, 0o604)
    answer["others may read a file"] = failed(what)
    shutil.copy2(kept, path)
    assert failed(what) == []
    sql("CREATE SCHEMA aside", "CREATE TABLE aside.kept AS SELECT * FROM reactions ORDER BY ctid LIMIT 1")
    sql("DELETE FROM reactions WHERE ctid = (SELECT min(ctid) FROM reactions)")
    answer["a row is deleted"] = failed(what)
    sql("INSERT INTO reactions SELECT * FROM aside.kept", "DROP SCHEMA aside CASCADE")
    sql("UPDATE posts SET message = message || 'x' WHERE id = (SELECT min(id) FROM posts)")
    answer["a message is another"] = failed(what)
    sql("UPDATE posts SET message = left(message, -1) WHERE id = (SELECT min(id) FROM posts)")
    # authdata is unique, and looked at row by row
    with db.connect(settings, name) as connection:
        pair = connection.execute(
            "SELECT id, authdata FROM users WHERE authservice = 'gitlab' ORDER BY id LIMIT 2"
        ).fetchall()
    (a, x), (b, y) = pair
    for first, second in ((y, x), (x, y)):
        sql(f"UPDATE users SET authdata = NULL WHERE id IN ('{a}', '{b}')")
        sql(
            f"UPDATE users SET authdata = '{first}' WHERE id = '{a}'",
            f"UPDATE users SET authdata = '{second}' WHERE id = '{b}'",
        )
        answer.setdefault("two people are swapped", failed(what))
    sql("DROP INDEX idx_posts_create_at")
    answer["an index is missing"] = failed(what)
    sql("CREATE INDEX idx_posts_create_at ON posts (createat)")
    sql(f"UPDATE fileinfo SET size = size + 1 WHERE id = '{one.id}'")
    answer["a row says another size"] = failed(what)
    sql(f"UPDATE fileinfo SET size = size - 1 WHERE id = '{one.id}'")
    assert failed(what) == [], failed(what)
    sql("GRANT CREATE ON SCHEMA public TO stranger", "ALTER TABLE preferences OWNER TO stranger")
    answer["an owner is another"] = failed(what)
finally:
    with db.connect(settings, settings.database.maintenance) as connection:
        db.drop(connection, name)
    shutil.rmtree(aside, ignore_errors=True)
print(json.dumps(answer))
