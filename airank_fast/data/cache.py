"""Folders under the user's cache directory that are made once, by the first process that needs them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from airank_fast.errors import UserError


def made_once(
    name: str, make: Callable[[Path], None], what: str, otherwise: str, cache_dir: str | os.PathLike | None = None
) -> Path:
    """The folder `name` in the cache directory, filled by `make(folder)` where it is absent.

    It is filled beside its final name and renamed, so that a process that is killed leaves no incomplete one; other
    processes wait meanwhile, and where the file system has no locks they fill one as well, of which the first is kept.

    Args:
        name: with the version of what is made in it.
        what, otherwise: for the error: "embedded text", "--data with a directory of shards".
        cache_dir: default `~/.cache/airank_fast`.

    UserError: the cache directory is not writable.
    """
    cache = Path(cache_dir) if cache_dir else Path.home() / ".cache" / "airank_fast"
    target = cache / name
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock"):
            if not target.is_dir():
                _make(target, make)
    except OSError as error:
        raise UserError(f"{what}: must have a writable {cache}, got {error}; or pass {otherwise}") from error
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    half_done = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder = half_done / "folder"
        folder.mkdir()
        make(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same contents
                raise
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # those that wait for it look first whether the folder is there
