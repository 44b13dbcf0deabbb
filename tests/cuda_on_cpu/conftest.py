"""Shared by the tests of this folder: they are skipped where they have passed with these sources (unchanged.py); work
that begins for all tests of a file at once, on all processors."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from cuda_on_cpu import build, unchanged


def pytest_collection_modifyitems(config, items):
    if config.getoption("--kernels") or (result := unchanged.result()) is None:
        return
    skip = pytest.mark.skip(reason=f"passed with these sources on {result['time'][:10]}; --kernels runs it again")
    for item in items:
        if item.path.parent == build.HERE:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def _begun():
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool, {}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def in_background(request, _begun):
    """`in_background(work, **parameters)` is `work(**parameters)`; the first call of a test function also begins the
    work of its other selected parameters. For work that is done by other processes."""
    pool, begun = _begun

    def result(work, **parameters):
        for item in request.session.items:
            if getattr(item, "originalname", None) != request.node.originalname or item.path != request.node.path:
                continue
            key = tuple(item.callspec.params[name] for name in parameters)
            if (work, key) not in begun:
                begun[work, key] = pool.submit(work, *key)
        return begun[work, tuple(parameters.values())].result()

    return result
