"""The walk below a folder: order, links, depths beyond Python's recursion, folders that cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airank_fast.errors import UserError
from airank_fast.walk import entries, files, walk

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from airank_fast.reports.files import checksums
from airank_fast.rules import trees, verifying
from airank_fast.sources.documents import find_inputs
from airank_fast.submission.request import _files
from pathlib import Path
top = Path(sys.argv[1])
print(len(list(verifying.verify(top))) > 0, len(checksums(top)), len(find_inputs([top])), len(_files(top)))
(top / "SHA256SUMS").write_text("")
print([rule.rule for rule in (*trees._links(top), *trees._sums(top))])
"""


@pytest.fixture
def deep(tmp_path):
    """A folder with a log 1,200 folders below it, and a way to remove it."""
    here = os.getcwd()
    top = tmp_path / "deep"
    top.mkdir()
    os.chdir(top)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    Path("GPUx1.log").write_text("AI-Rank-log 1 test_begin\n")
    os.chdir(here)
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True)


def test_every_walk_reaches_the_bottom(deep):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(deep)], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout == "True 1 1 1\n['tree.listed']\n"


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
    with pytest.raises(UserError, match="a directory that can be read is required, got No such file"):
        entries(tmp_path / "none")
    with pytest.raises(UserError, match="got File name too long") as caught:
        list(walk(tmp_path / ("d/" * 3000)))
    assert len(str(caught.value)) < 400
