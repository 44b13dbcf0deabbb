"""Shared by the tests of this folder: work that begins for all tests of a file at once, on all processors."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest


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
