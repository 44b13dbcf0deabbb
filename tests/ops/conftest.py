"""Fixtures of the tests of the ops."""

import pytest


@pytest.fixture
def long_row(pytestconfig) -> int:
    """Columns of a row that is too long for a sum of floats; an emulated kernel would take half a minute for more."""
    return 2**17 if pytestconfig.getoption("--cuda-on-cpu") else 2**20
