"""The identity of this source code: version, commit, and the files of the checkout or the installed package."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from airank_fast import __version__
from airank_fast.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
NOT_SOURCE = {"__pycache__"}
NOT_SOURCE_SUFFIXES = {".so", ".pyd", ".pyc"}


def identity() -> dict[str, str]:
    """version, and of a git checkout commit and "modified": how many tracked files differ from it.

    Without git, or in an installed package, the version alone.
    """
    found = {"name": "airank_fast", "version": __version__}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return found
    changed = _git("status", "--porcelain", "--untracked-files=no") or ""
    return {**found, "commit": commit.strip(), "modified": str(len(changed.splitlines()))}


def has_commit(commit: str) -> bool:
    """Whether the checkout holds this commit."""
    is_hash = re.fullmatch(r"[0-9a-f]{40}", commit) is not None
    return is_hash and _git("cat-file", "-e", commit + "^{commit}") is not None


def files_of(commit: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file of a commit that the checkout holds. UserError for a symbolic link among them."""
    archive = subprocess.run([*_git_command(), "archive", "--format=tar", commit], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            if member.issym() or member.islnk():
                raise UserError(f"{member.name}: must be source files without symbolic links, got one")
            if member.isfile():
                yield member.name, tar.extractfile(member).read()


def files() -> Iterator[tuple[str, Path]]:
    """(name, path) of every source file, sorted: what git tracks in a checkout, else the package as installed.

    UserError for a symbolic link among them, which could point anywhere where a reviewer unpacks it.
    """
    listed = _git("ls-files", "-z")
    root = PACKAGE.parent
    if listed is not None:
        names = sorted(name for name in listed.split("\0") if name)
        found = [(name, root / name) for name in names]
    else:
        found = [(str(path.relative_to(root)), path) for path in sorted(PACKAGE.rglob("*")) if _is_source(path)]
    for name, path in found:
        if path.is_symlink():
            raise UserError(f"{path}: must be source files without symbolic links, got one")
        if path.is_file():  # git still lists a deleted one
            yield name, path


def _is_source(path: Path) -> bool:
    inner = path.relative_to(PACKAGE)
    return not path.is_dir() and not NOT_SOURCE & set(inner.parts) and path.suffix not in NOT_SOURCE_SUFFIXES


def _git(*arguments: str) -> str | None:
    """The output of a git command in the checkout that holds the package; None without a checkout or git."""
    root = PACKAGE.parent
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None
    try:
        done = subprocess.run([*_git_command(), *arguments], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _git_command() -> list[str]:
    return ["git", "-c", f"safe.directory={PACKAGE.parent}", "-C", str(PACKAGE.parent)]
