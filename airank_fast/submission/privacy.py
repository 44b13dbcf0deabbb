"""Finds private names, of home folders, hosts and users, in the records of a run; shortens or refuses them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.lines import Lines

_HOMES = r"(?<![\w.~-])(?:/(?:home|Users|data/home|mnt/home)/[^/\s\"',:;]+|/root(?=[/\s\"',:;]|$))"
_ORDINARY = {"root", "user", "admin", "nobody", "ubuntu", "runner", "test", "localhost", "train", "data"}
_MIN_NAME_LENGTH = 4  # ordinary words contain shorter ones


def shorten(text: str) -> str:
    """`text` with every home folder as "~", and this machine's host and user as "<host>" and "<user>"."""
    return _pattern().sub(lambda match: "~" if match.lastgroup is None else f"<{match.lastgroup}>", text)


def shorten_all(value):
    """`shorten` for every string in a JSON value, at any depth."""
    if isinstance(value, dict):
        return {key: shorten_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorten_all(item) for item in value]
    return shorten(value) if isinstance(value, str) else value


def refuse_names(logs: Iterable[Path]) -> None:
    """UserError if a log, which is handed in unchanged, names this host, this user or a home folder."""
    search = _pattern().search
    for log in logs:
        for number, line in enumerate(Lines(log), 1):
            if search(line):
                raise UserError(
                    f"{log}:{number}: must be without the names of hosts, users and home folders "
                    f"(or --allow-names), got {line.strip()[:120]!r}"
                )


@cache
def _pattern() -> re.Pattern:
    """Home folders, unnamed, and the groups host and user."""
    parts = [_HOMES]
    for kind, names in (("host", _hosts()), ("user", _users())):
        names = sorted({n for n in names if len(n) >= _MIN_NAME_LENGTH and n.lower() not in _ORDINARY}, key=len)
        if names:
            parts.append(rf"(?<![\w-])(?P<{kind}>{'|'.join(re.escape(name) for name in reversed(names))})(?![\w-])")
    return re.compile("|".join(parts))


def _hosts() -> list[str]:
    name = socket.gethostname()
    return [name, name.split(".")[0]]


def _users() -> list[str]:
    try:
        import pwd
    except ImportError:  # not on Windows
        return []
    try:
        return [pwd.getpwuid(os.getuid()).pw_name]
    except KeyError:
        return []
