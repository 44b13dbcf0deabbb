"""CombinedOptimizer: several optimizers as one, as where a table and the layers behind it have rules of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.errors import UserError


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers over different parameters that step together; torch's protocol, and that of `FusedOptimizer`.

    `param_groups` and `state` are those of all of them, in order; a learning rate that is set in a group reaches its
    optimizer. `state_dict` is {"optimizers": [that of each]}. With torch.amp.GradScaler gradients are unscaled, and
    steps skipped, inside the optimizers if all of them can; else by the scaler.

    Raises:
        UserError: no optimizer, or a parameter in two of them.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        params = [id(param) for group in self.param_groups for param in group["params"]]
        if not optimizers:
            raise UserError("combined_optimizer: optimizers must be at least one, got none")
        if len(set(params)) < len(params):
            got = f"{len(params) - len(set(params))} twice"
            raise UserError(f"combined_optimizer: parameters must be in one optimizer each, got {got}")
        super().__init__(self.param_groups, {})

    @property
    def param_groups(self) -> list[dict]:
        """The groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @param_groups.setter
    def param_groups(self, _: list) -> None:
        """torch's constructor sets it."""

    @property
    def state(self) -> dict:
        """The state of all optimizers, by parameter."""
        return {param: state for optimizer in self.optimizers for param, state in optimizer.state.items()}

    @state.setter
    def state(self, _: dict) -> None:
        """torch's constructor sets it."""

    @property
    def master_weights(self) -> bool:
        """Whether all optimizers keep float32 masters of 16-bit parameters."""
        return all(getattr(optimizer, "master_weights", False) for optimizer in self.optimizers)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return all(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in self.optimizers)

    def add_param_group(self, param_group: dict) -> None:
        """Only groups that an optimizer has already: add others to one of the optimizers."""
        if not any(param_group is group for group in self.param_groups):
            raise UserError("combined_optimizer: a group must be added to one of the optimizers, got one for all")

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Step with each optimizer; `closure`, if given, computes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scaling = {name: getattr(self, name) for name in ("grad_scale", "found_inf") if hasattr(self, name)}
        for optimizer in self.optimizers:
            for name, value in scaling.items():
                setattr(optimizer, name, value)
            optimizer.step()
            for name in scaling:
                delattr(optimizer, name)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None, or fill them with zeros."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def reset_state(self) -> None:
        """Return to the state before the first step."""
        for optimizer in self.optimizers:
            reset = getattr(optimizer, "reset_state", optimizer.state.clear)
            reset()

    def state_dict(self) -> dict:
        """The state of each optimizer."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of each optimizer."""
        states = state_dict["optimizers"]
        if len(states) != len(self.optimizers):
            required = f"states of {len(self.optimizers)} optimizers"
            raise UserError(f"combined_optimizer: a saved state must have {required}, got {len(states)}")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
