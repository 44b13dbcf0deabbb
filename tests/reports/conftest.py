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
        pytest.skip(f"no browser: must be one of {', '.join(chromium.NAMES)}")
    with chromium.Browser(program) as found:
        yield found


@pytest.fixture(scope="session")
def refused_run(tmp_path_factory):
    """A run with more findings than a report lists, some of them long and with text that could act in a page."""
    story = made_up.MadeUpRun(8).begin().train(8).stop("aborted", "epochs")
    directory = story.write(tmp_path_factory.mktemp("refused") / "run")
    wrong = "".join(f"AI-Rank-log 1790000000.{n:03d} <b>{'x' * 150}|{n}</b>\n" for n in range(30))
    (directory / "airank.log").write_text(wrong + (directory / "airank.log").read_text())
    return directory
