"""Runs with a number of threads, for tests that results do not depend on it."""

import contextlib

import torch


@contextlib.contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread():
    return threads(1)


def in_threads(number, function):
    """The result with this number of threads."""
    with threads(number):
        return function()
