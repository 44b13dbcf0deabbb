"""Fixtures of the tests of inference: workers of systems that tests choose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def workers_see_tests(monkeypatch):
    """A worker imports modules of this project and of its tests, wherever it starts."""
    tests = Path(__file__).parents[1]
    paths = [str(tests.parent), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
