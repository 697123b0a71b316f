"""A secret that we keep is in its file whole or not at all, for nobody else to read, and never over another one."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from roles.site import kept
from roles.site.secret import Secret

VALUE = Secret("kept-value-of-a-test")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_kept_can_be_read_back_and_by_its_owner_alone(tmp_path, replace, umask):
    old = os.umask(umask)
    try:
        kept.keep(tmp_path / "new" / "secret", VALUE, replace=replace)
    finally:
        os.umask(old)
    path = tmp_path / "new" / "secret"
    assert path.read_text() == "kept-value-of-a-test\n"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert path.stat().st_nlink == 1
    assert names(path.parent) == ["secret"]


def test_the_mode_of_a_folder_that_is_there_is_left_alone(tmp_path):
    tmp_path.chmod(0o755)
    kept.keep(tmp_path / "secret", VALUE)
    assert tmp_path.stat().st_mode & 0o7777 == 0o755


def test_without_replace_a_file_that_is_there_wins(tmp_path):
    (tmp_path / "secret").write_text("old\n")
    with pytest.raises(FileExistsError):
        kept.keep(tmp_path / "secret", VALUE)
    assert (tmp_path / "secret").read_text() == "old\n"
    assert names(tmp_path) == ["secret"]


def test_with_replace_the_old_file_is_gone_and_what_was_open_is_not_cut_short(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old\n")
    path.chmod(0o644)
    with path.open() as reader:
        kept.keep(path, VALUE, replace=True)
        assert reader.read() == "old\n", "the file was replaced by rename, not written into"
    assert path.read_text() == "kept-value-of-a-test\n"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["secret"]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_behind(tmp_path, replace):
    with pytest.raises(OSError, match="No space left") as caught:
        kept.keep(tmp_path / "secret", VALUE, replace=replace)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_one(tmp_path):
    (tmp_path / "secret").write_text("old\n")
    with pytest.raises(OSError, match="No space left"):
        kept.keep(tmp_path / "secret", VALUE, replace=True)
    assert (tmp_path / "secret").read_text() == "old\n"
    assert names(tmp_path) == ["secret"]


def test_until_it_is_synced_nothing_stands_under_its_name(tmp_path, monkeypatch):
    seen = []

    def look(descriptor):
        seen.append((path.exists(), os.fstat(descriptor).st_size, [file.stat().st_mode & 0o777 for file in files()]))

    def files():
        return list(tmp_path.iterdir())

    path = tmp_path / "secret"
    monkeypatch.setattr(os, "fsync", look)
    kept.keep(path, VALUE)
    assert seen == [(False, len("kept-value-of-a-test\n"), [0o600])]


@pytest.mark.parametrize("replace", [True, False])
def test_a_link_to_nowhere_is_told_and_stays(tmp_path, replace):
    (tmp_path / "secret").symlink_to(tmp_path / "vault" / "secret")
    with pytest.raises(FileNotFoundError) as caught:
        kept.keep(tmp_path / "secret", VALUE, replace=replace)
    assert caught.value.strerror == "it is a link to nowhere"
    assert names(tmp_path) == ["secret"]
    assert (tmp_path / "secret").is_symlink()


def test_a_link_to_a_file_is_a_file_that_is_there(tmp_path):
    (tmp_path / "real").write_text("old\n")
    (tmp_path / "secret").symlink_to("real")
    with pytest.raises(FileExistsError):
        kept.keep(tmp_path / "secret", VALUE)
    assert (tmp_path / "real").read_text() == "old\n"
    kept.keep(tmp_path / "secret", VALUE, replace=True)
    assert (tmp_path / "secret").read_text() == "kept-value-of-a-test\n"
    assert names(tmp_path) == ["real", "secret"]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("below", ["secret", "more/secret"])
def test_its_folder_is_a_file(tmp_path, replace, below):
    (tmp_path / "file").write_text("mine\n")
    with pytest.raises(NotADirectoryError):
        kept.keep(tmp_path / "file" / below, VALUE, replace=replace)
    assert (tmp_path / "file").read_text() == "mine\n"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_of_its_name_is_no_place_for_it(tmp_path, replace):
    (tmp_path / "secret").mkdir()
    with pytest.raises(OSError, match=r"directory|exists"):
        kept.keep(tmp_path / "secret", VALUE, replace=replace)
    assert names(tmp_path) == ["secret"]
    assert names(tmp_path / "secret") == []


def test_it_appears_meanwhile(tmp_path, monkeypatch):
    """Another run made it between our look and our write."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: (tmp_path / "secret").write_text("theirs\n"))
    with pytest.raises(FileExistsError):
        kept.keep(tmp_path / "secret", VALUE)
    assert (tmp_path / "secret").read_text() == "theirs\n"
    assert names(tmp_path) == ["secret"]


def test_two_processes_at_once(tmp_path, monkeypatch):
    """Another process is between its write and its link while ours does all of it: one wins, and it is whole."""
    ours = os.getpid()

    def other_first(descriptor):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        monkeypatch.setattr(os, "getpid", lambda: ours + 1)
        kept.keep(tmp_path / "secret", Secret("value-of-the-other"))

    monkeypatch.setattr(os, "fsync", other_first)
    with pytest.raises(FileExistsError):
        kept.keep(tmp_path / "secret", VALUE)
    assert (tmp_path / "secret").read_text() == "value-of-the-other\n"
    assert names(tmp_path) == ["secret"]


def test_many_at_once_in_one_process(tmp_path):
    """Whoever comes first: the file is one of them, whole, and nothing else is left."""
    values = [f"value-of-thread-{number}" * 400 for number in range(8)]
    start = threading.Barrier(len(values))
    told = []

    def keep(value):
        start.wait()
        try:
            kept.keep(tmp_path / "secret", Secret(value), replace=True)
        except OSError as error:
            told.append(error)

    threads = [threading.Thread(target=keep, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "secret").read_text().removesuffix("\n") in values
    assert names(tmp_path) == ["secret"]
    assert len(told) < len(values)


@pytest.mark.parametrize("replace", [True, False])
def test_what_a_killed_run_left_does_not_stop_the_next(tmp_path, replace):
    (tmp_path / f".secret.{os.getpid()}.new").write_text("cut sho")
    kept.keep(tmp_path / "secret", VALUE, replace=replace)
    assert (tmp_path / "secret").read_text() == "kept-value-of-a-test\n"
