"""airank_fast::adam_ by the tests of the adaptive optimizers, and its choice between Adam and AdamW."""

from __future__ import annotations

from typing import ClassVar

import torch
from ops.adaptive import AdaptiveTests

from airank_fast.ops import adam_
from airank_fast.ops.adam import adam_reference


class TestAdam(AdaptiveTests):
    name = "adam"
    options: ClassVar = {
        "plain": {},
        "decay in gradient": {"weight_decay": 0.1},
        "decoupled decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        "other betas": {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
        "maximize": {"maximize": True, "weight_decay": 0.1},
    }
    states: ClassVar = {"exp_avgs": "exp_avg", "exp_avg_sqs": "exp_avg_sq"}
    squares = ("exp_avg_sqs",)
    torchs = torch.optim.Adam
    step = staticmethod(adam_)
    reference = staticmethod(adam_reference)
    float32_units = 0.5  # where v is near 0, one rounding decides: of thousands of elements torch's may have been lucky

    def torch_optimizer(self, params, lr, options):
        betas = (options.get("beta1", 0.9), options.get("beta2", 0.999))
        rest = {name: value for name, value in options.items() if not name.startswith("beta")}
        return super().torch_optimizer(params, lr, {"betas": betas, **rest})

    def test_without_bias_correction_the_step_has_no_effect_on_the_result(self, step):
        early, late = self.made(sizes=[97]), self.made(sizes=[97])
        late[-3][0].fill_(1000.0)
        for arguments in (early, late):
            step(*arguments, bias_correction=False)
        torch.testing.assert_close(self.results(early), self.results(late), rtol=0, atol=0)
        _, grads, ms, vs, *_ = self.made(sizes=[97])
        m, v = 0.9 * ms[0] + 0.1 * grads[0], 0.999 * vs[0] + 0.001 * grads[0].square()
        new = self.made(sizes=[97])[0][0] - 0.1 * m / (v.sqrt() + 1e-8)
        torch.testing.assert_close(early[0][0], new)
