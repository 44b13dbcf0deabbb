"""Folders that are made once: by one of several at a time, whole or not at all."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from airank_fast.data.cache import made_once
from airank_fast.errors import UserError


def made(tmp_path, make):
    return made_once("folder", make, "embedded data", "--data with a directory", tmp_path)


@pytest.mark.parametrize("locks", [True, False])
def test_several_at_once_make_it_once_or_keep_the_first(locks, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    if not locks:
        monkeypatch.setattr("fcntl.flock", no_locks)
    makers = []

    def make(folder):
        makers.append(folder)
        time.sleep(0.2)
        (folder / "name").write_text(str(folder.parent))

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: made(tmp_path, make), range(4)))
    assert set(folders) == {tmp_path / "folder"}
    assert len(makers) == 1 if locks else len(makers) > 1
    assert (tmp_path / "folder" / "name").read_text() in {str(maker.parent) for maker in makers}
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_one_that_cannot_be_finished_leaves_nothing(tmp_path):
    def full(folder):
        (folder / "begun").write_text("")
        raise OSError("No space left on device")

    with pytest.raises(
        UserError, match=r"embedded data: must have a writable .*, got No space left on device; or pass"
    ):
        made(tmp_path, full)
    assert list(tmp_path.iterdir()) == []
    made(tmp_path, lambda folder: (folder / "whole").write_text(""))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["whole"]
