"""What the tests of the reports share: a set of made-up runs, and the browser."""

from __future__ import annotations

import pytest
from reports import chromium, made_up


@pytest.fixture(scope="session")
def run_set(tmp_path_factory):
    """Run directories on 1, 8 and 32 cards, an aborted and a resumed one; nobody changes them."""
    return made_up.write_set(tmp_path_factory.mktemp("made-up"))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium for all tests."""
    program = chromium.find()
    if program is None:
        pytest.skip(f"no browser: one of {', '.join(chromium.NAMES)} is required")
    with chromium.Browser(program) as found:
        yield found
