"""FTRL-Proximal in plain torch, as Keras's Ftrl computes it: what torch.optim would have."""

from __future__ import annotations

import torch


class PlainFTRL(torch.optim.Optimizer):
    """State in the parameters' dtype, by the names of airank_fast.optim.FusedFTRL."""

    def __init__(self, params, lr=1e-3, foreach=None, **options):
        defaults = {"lr_power": -0.5, "initial_accumulator_value": 0.1, "maximize": False}
        penalties = dict.fromkeys(("l1", "l2", "l2_shrinkage", "beta"), 0.0)
        super().__init__(params, {"lr": lr} | defaults | penalties | options)

    @torch.no_grad()
    def step(self):
        for o in self.param_groups:
            for param in o["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["accumulator"] = torch.full_like(param, o["initial_accumulator_value"])
                    state["linear"] = torch.zeros_like(param)
                grad = -param.grad if o["maximize"] else param.grad
                old, power, lr = state["accumulator"], -o["lr_power"], o["lr"]
                new = old + grad**2
                l2 = o["l2"] + o["beta"] / (2 * lr)
                state["linear"] += grad + 2 * o["l2_shrinkage"] * param - (new**power - old**power) / lr * param
                clipped = state["linear"].clamp(-o["l1"], o["l1"])
                param.copy_((clipped - state["linear"]) / (new**power / lr + 2 * l2))
                state["accumulator"] = new
                state["step"] += 1
