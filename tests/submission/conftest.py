"""What the tests of submissions share: synthetic runs, made once, and packages of them."""

from __future__ import annotations

import pytest
from submission import synthetic

from airank_fast import package


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Five synthetic runs of ResNet-50 and ten of BERT; nobody changes them."""
    return synthetic.full_set(tmp_path_factory.mktemp("synthetic"))


def build(output, runs, form="mlperf", **options):
    """Package runs in this process; returns the exit status."""
    options = {"settings": [f"{name}={value}" for name, value in synthetic.ANSWERS.items()], **options}
    return package.build(package.Options(runs=list(runs), format=form, output=output, **options))


@pytest.fixture(scope="session")
def gp2bm(runs, tmp_path_factory):
    """A complete GP2BM package; nobody changes it."""
    output = tmp_path_factory.mktemp("packages") / "gp2bm"
    assert build(output, runs, "gp2bm") == 0
    return output


@pytest.fixture(name="build")
def build_fixture():
    return build
