"""Writing a tree: whole or absent, no way out of it, the same bytes each time; and what is nobody's business."""

import os
import socket

import pytest

from airank_fast.errors import UserError
from airank_fast.submission import privacy
from airank_fast.submission.tree import Tree, component

HOME, ROOT = "/" + "home", "/" + "root"  # in pieces: no file of the project names a machine's folders


def test_a_tree_is_written_with_checksums_that_sha256sum_reads(tmp_path):
    tree = Tree()
    tree.add("b/two.txt", "2\n")
    tree.add("a.sh", "#!/bin/sh\n")
    tree.write(tmp_path / "out", {"format": "test"})
    assert (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()[1] == (
        "53c234e5e8472b6ac51c1ae1cab3fe06fad053beb8ebfd8977b010655bfdd3c3  b/two.txt"
    )
    assert os.access(tmp_path / "out" / "a.sh", os.X_OK)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "./x", "a\nb", "a\\b", ".."])
def test_no_name_leaves_the_tree(name):
    with pytest.raises(UserError, match="a path inside the tree"):
        Tree().add(name, "")


def test_a_name_is_given_once():
    tree = Tree()
    tree.add("a", "1")
    with pytest.raises(UserError, match="one file of that name"):
        tree.add("a", "2")


def test_a_link_is_not_copied(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="a regular file, got a symbolic link"):
        Tree().copy("x", tmp_path / "link")


@pytest.mark.parametrize("occupied", ["file", "full", "link"])
def test_nothing_is_written_over(tmp_path, occupied):
    out = tmp_path / "out"
    if occupied == "file":
        out.write_text("mine")
    elif occupied == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="a directory that is absent or empty"):
        Tree().write(out, {})
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_directory_may_be_there(tmp_path):
    (tmp_path / "out").mkdir()
    Tree().write(tmp_path / "out", {})
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_tree_that_cannot_be_finished_leaves_nothing(tmp_path):
    tree = Tree()
    (tmp_path / "log").write_text("x")
    tree.copy("a/log", tmp_path / "log")
    tree.add("z" * 300, "a name that no file system takes")
    with pytest.raises(UserError, match="a directory that can be written"):
        tree.write(tmp_path / "out", {})
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(("text", "name"), [("8x A100 / NVLink", "8x_A100_NVLink"), ("百度", "百度"), (" a.b ", "a.b")])
def test_a_folder_bears_a_plain_name(text, name):
    assert component("system_name", text) == name


@pytest.mark.parametrize("text", ["", "..", "/", "--output", " . "])
def test_a_name_that_no_folder_bears_is_refused(text):
    with pytest.raises(UserError, match="system_name: must be a name that a folder can have"):
        component("system_name", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HOME}/li/data/train", "~/data/train"),
        ("--data=/Users/li --x", "--data=~ --x"),
        (f"{ROOT}/.cache", "~/.cache"),
        ("/data/imagenet/rooted/homework", "/data/imagenet/rooted/homework"),
        ("node: gpu-host-17", "node: <host>"),
        ("gpu-host-171", "gpu-host-171"),
    ],
)
def test_homes_and_hosts_are_shortened(monkeypatch, text, expected):
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-host-17.example.org")
    privacy._pattern.cache_clear()
    try:
        assert privacy.shorten_all({"a": [text, 1]}) == {"a": [expected, 1]}
    finally:
        privacy._pattern.cache_clear()
