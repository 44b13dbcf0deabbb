"""FusedFTRL's step against FTRL in torch's operators on ResNet-50's parameters; bench/optimizers.py has the cases.

    python bench/ftrl.py [--save] [--rounds N] [--device cpu|cuda]

torch has no FTRL: the peer is the same formula over lists of tensors. Under torch.compile (2.13) it gives other values
than without, and is no peer.
"""

from __future__ import annotations

import optimizers
import torch

from airank_fast.optim import FusedFTRL

OPTIONS = {"lr": 0.05, "l1": 1e-3, "l2": 1e-4, "beta": 1.0}


class TorchFTRL(torch.optim.Optimizer):
    """FTRL-Proximal by torch's operators over lists of tensors, with as few of them as the formula allows."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, l1: float, l2: float, beta: float, foreach: bool = True
    ) -> None:
        super().__init__(params, {"lr": lr, "l1": l1, "curvature": beta / lr + 2 * l2, "foreach": foreach})
        params = self.param_groups[0]["params"]
        self.accumulators = [torch.full_like(param, 0.1) for param in params]
        self.linears = [torch.zeros_like(param) for param in params]
        self.roots = [accumulator.sqrt() for accumulator in self.accumulators]

    @torch.no_grad()
    def step(self) -> None:
        """The formulas of csrc/ftrl_math.h, with the roots of the accumulators kept from step to step."""
        group = self.param_groups[0]
        params, lr, l1 = group["params"], group["lr"], group["l1"]
        grads = [param.grad for param in params]
        torch._foreach_addcmul_(self.accumulators, grads, grads)
        roots = torch._foreach_sqrt(self.accumulators)
        torch._foreach_sub_(self.roots, roots)
        torch._foreach_addcmul_(self.linears, self.roots, params, value=1 / lr)
        torch._foreach_add_(self.linears, grads)
        self.roots = roots
        clipped = torch._foreach_clamp_max(self.linears, l1)
        torch._foreach_clamp_min_(clipped, -l1)
        torch._foreach_sub_(clipped, self.linears)
        divisors = torch._foreach_mul(roots, 1 / lr)
        torch._foreach_add_(divisors, group["curvature"])
        torch._foreach_div_(clipped, divisors)
        torch._foreach_copy_(params, clipped)


BENCH = optimizers.Bench("ftrl", FusedFTRL, TorchFTRL, OPTIONS, num_states=2, kinds=("foreach",), compiles=False)

if __name__ == "__main__":
    BENCH.run(__doc__)
