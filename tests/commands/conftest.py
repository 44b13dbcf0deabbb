"""Fixtures of the tests of the commands."""

from __future__ import annotations

import pytest
from commands.runs import write_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """An ImageFolder of a few pictures; tests must not change it."""
    return write_tree(tmp_path_factory.mktemp("pictures"))
