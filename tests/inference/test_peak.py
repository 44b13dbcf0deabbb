"""The rate of matrix products, of which a network's operations are a share."""

import pytest
import torch

from airank_fast.inference.peak import matmul_rate

CPU = torch.device("cpu")


def test_the_rate_is_that_of_the_products_that_ran(monkeypatch):
    took = iter([5.0, 0.25, 0.2, 0.4])
    monkeypatch.setattr("airank_fast.inference.peak._seconds", lambda a, b: next(took))
    assert matmul_rate(CPU, "fp32", 1) == pytest.approx(2 * 1536**3 / 0.25)  # the first one warms up


def test_the_threads_are_those_of_the_engine_and_given_back(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr("airank_fast.inference.peak._seconds", lambda a, b: seen.append(torch.get_num_threads()) or 1.0)
    matmul_rate(CPU, "fp32", 1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_int8_has_none():
    assert matmul_rate(CPU, "int8", 1) is None
