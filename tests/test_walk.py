"""The walk below a folder: order, links, depths beyond Python's recursion, folders that cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airank_fast.errors import UserError
from airank_fast.walk import entries, files, make_folders, remove, walk

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from PIL import Image
from airank_fast.data.images import ImageFolder
from airank_fast.errors import UserError
from airank_fast.reports.files import checksums
from airank_fast.rules import tree_files, verifying
from airank_fast.sources.documents import find_inputs
from airank_fast.submission.request import _files
from airank_fast.submission.tree import Tree
from airank_fast.walk import remove
from pathlib import Path
top = Path(sys.argv[1])
image = top / "train" / "class"
image.mkdir(parents=True)
(top / "d").rename(image / "d")
(top / "val" / "class").mkdir(parents=True)
Image.new("RGB", (8, 8)).save(top / "val/class/1.png")
picture = image / ("d/" * 1200) / "1.png"
Image.new("RGB", (8, 8)).save(picture)
print(len(ImageFolder(top, 1).train))
tree = Tree()
for name, path in _files(top):
    tree.copy(name, path)
tree.write(Path(sys.argv[2]) / "whole", {})
gone = Path(sys.argv[2]) / "gone"
gone.write_text("")
tree.copy("z", gone)
gone.unlink()
try:
    tree.write(Path(sys.argv[2]) / "not_written", {})
except UserError:
    print(sorted(path.name for path in Path(sys.argv[2]).iterdir()))
print(len(list(verifying.verify(top))) > 0, len(checksums(top)), len(find_inputs([top])), len(_files(top)))
remove(Path(sys.argv[2]) / "whole")
(top / "SHA256SUMS").write_text("")
print([rule.rule for rule in (*tree_files.links(top), *tree_files.sums(top))])
"""


@pytest.fixture
def deep(tmp_path):
    """A folder with a log 1,200 folders below it, and an empty one beside it, out."""
    here = os.getcwd()
    top = tmp_path / "deep"
    top.mkdir()
    os.chdir(top)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    Path("GPUx1.log").write_text("AI-Rank-log 1 test_begin\n")
    os.chdir(here)
    (tmp_path / "out").mkdir()
    yield top
    subprocess.run(["rm", "-rf", top, tmp_path / "out"], check=True)  # pytest's own removal recurses


def test_every_walk_reaches_the_bottom(deep, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, str(deep), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    assert done.stdout == "1\n['whole']\nTrue 3 3 3\n['tree.listed', 'tree.listed', 'tree.listed']\n"
    assert list(out.iterdir()) == []


def test_folders_are_made_and_removed_with_links(tmp_path):
    make_folders(tmp_path / "a/b/c")
    make_folders(tmp_path / "a/b")
    (tmp_path / "a/b/link").symlink_to(tmp_path)
    (tmp_path / "a/file").write_text("")
    (tmp_path / "kept").write_text("")
    with pytest.raises(OSError):  # noqa: PT011 -- the path is a file
        make_folders(tmp_path / "kept/d")
    remove(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_order_links_and_folders_that_are_not_entered(tmp_path):
    for name in ("b/x", "b.d/x", "a/y/z", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "to_c").symlink_to(tmp_path / "c")
    found = [os.path.relpath(entry.path, tmp_path) for entry in walk(tmp_path)]
    assert found == ["a", "a/y", "a/y/z", "b", "b/x", "b.d", "b.d/x", "c", "loop", "to_c"]
    without_a = [str(file.relative_to(tmp_path)) for file in files(tmp_path, lambda entry: entry.name != "a")]
    assert without_a == ["b/x", "b.d/x", "c", "to_c"]


def test_a_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="a directory that can be read, got No such file"):
        entries(tmp_path / "none")
    with pytest.raises(UserError, match="got File name too long") as caught:
        list(walk(tmp_path / ("d/" * 3000)))
    assert len(str(caught.value)) < 400
