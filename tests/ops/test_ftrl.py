"""airank_fast::ftrl_ by the tests of the adaptive optimizers, and what is its own: exact zeros, rates of 0."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from ops.adaptive import AdaptiveTests
from ops.plain_ftrl import PlainFTRL
from ops.tensor_lists import DEVICES, cloned

from airank_fast.ops import ftrl_
from airank_fast.ops.ftrl import ftrl_reference


class TestFtrl(AdaptiveTests):
    name = "ftrl"
    options: ClassVar = {
        "plain": {},
        "penalties": {"l1": 0.05, "l2": 0.1, "l2_shrinkage": 0.01, "beta": 0.5},
        "another power": {"lr_power": -0.75, "beta": 1.0},
        "power 0": {"lr_power": 0.0, "l2": 0.1},
        "maximize": {"maximize": True, "l1": 0.05},
    }
    one_option: ClassVar = {"l1": 0.1}
    states: ClassVar = {"accumulators": "accumulator", "linears": "linear"}
    squares = ("accumulators",)
    torchs = PlainFTRL
    step = staticmethod(ftrl_)
    reference = staticmethod(ftrl_reference)

    @pytest.mark.parametrize("device", DEVICES)
    def test_weights_of_a_small_linear_term_are_exactly_0(self, device, step):
        arguments = self.made(device)
        step(*arguments, l1=1.0)
        for param, linear in zip(arguments[0], arguments[3], strict=True):
            assert torch.equal(param == 0, linear.abs() <= 1)
        assert 0.1 < torch.cat(arguments[0]).eq(0).double().mean() < 0.9

    @pytest.mark.parametrize("device", DEVICES)
    def test_without_gradients_so_far_a_weight_is_0_and_not_nan(self, device, step):
        arguments = self.made(device, sizes=[7])
        for tensor in (arguments[1][0], arguments[2][0], arguments[3][0]):
            tensor.zero_()
        step(*arguments)
        assert arguments[0][0].tolist() == [0.0] * 7

    @pytest.mark.parametrize("device", DEVICES)
    def test_a_rate_of_0_counts_and_changes_nothing_else(self, device, step):
        arguments = self.made(device, copy_dtype=torch.bfloat16)
        arguments[1][1].fill_(float("inf"))
        arguments[-1].zero_()
        before = cloned(arguments)
        step(*arguments)
        torch.testing.assert_close(arguments[:4], before[:4], rtol=0, atol=0)
        torch.testing.assert_close(arguments[5], before[5], rtol=0, atol=0)
        assert [t.item() for t in arguments[4]] == [t.item() + 1 for t in before[4]]

    def test_growth_of_the_root_does_not_cancel(self):
        """n = 1e4 and g = 1e-3: in float32 n + g^2 is n, and so are their roots; the linear term must still grow."""
        n, weight = 1e4, 2.0
        param, linear = torch.tensor([weight]), torch.tensor([0.0])
        states = [torch.tensor([n])], [linear], [torch.zeros(())]
        ftrl_([param], [torch.tensor([1e-3])], *states, [], torch.tensor(1e-6))
        expected = 1e-3 - 1e-6 / (2 * n**0.5) / 1e-6 * weight
        assert linear.item() == pytest.approx(expected, rel=1e-5)
