"""The base of the fused optimizers: scalars on the device, float32 masters, loading state into existing tensors."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.ops import global_norm
from airank_fast.ops.checks import IN_16_BITS
from airank_fast.optim.shards import is_flattened, layout_of


class FusedOptimizer(torch.optim.Optimizer):
    """torch's Optimizer protocol around an op that takes whole lists of tensors and never waits for the device.

    A subclass names its op and its state, and implements `check_options` and `update`. `set_grad_none` is the default
    of `zero_grad`'s argument.

    Learning rates: a float is passed to the device when it changes, which a captured CUDA graph does not see; a
    tensor on the parameters' device is read there at each step.

    State: `state_names`, and "master" (float32) for 16-bit parameters where `master_weights` is set; all with the
    parameter's strides, except "step", the number of steps that the parameter has had, one float32 number. The op
    compares each 16-bit weight with its rounded master: one that differs was written by other code, and the master is
    updated from it. `load_state_dict` writes into existing state and lr tensors, so that captured graphs stay valid;
    options that the saved groups lack keep the optimizer's defaults. Its hooks are torch's: a pre-hook's result is
    loaded, and a post-hook runs after that.

    Parameters may be DTensors (fully_shard, tensor parallelism): the op then works on this rank's shards, and state is
    DTensors too. Norms over whole tensors, LARS's and LAMB's, take one collective for each list of tensors, and the
    step is in plain torch there. FullyShardedDataParallel gives an optimizer flat pieces: these two refuse them.

    torch.amp.GradScaler leaves unscaling and skipping to `step`, as with torch's ``fused=True``. Lightning's "16-mixed"
    therefore refuses ``gradient_clip_val``; for clipping by hand call ``scaler.unscale_(optimizer)`` first.
    """

    op = ""
    state_names: tuple[str, ...] = ()
    _step_supports_amp_scaling = True  # GradScaler then sets self.grad_scale and self.found_inf around step()

    def __init__(self, params, defaults: dict, *, master_weights: bool, set_grad_none: bool = True) -> None:
        self.master_weights = master_weights
        self.set_grad_none = set_grad_none
        self._lr_on_device: dict[tuple, tuple[float, Tensor]] = {}
        super().__init__(params, defaults)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        raise NotImplementedError

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        raise NotImplementedError

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """The dtype of the parameter's state other than "master"."""
        return torch.float32 if self.has_master(param) else param.dtype

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; its own options, where given, replace the optimizer's."""
        self.check_options(self.defaults | param_group)
        _without_dynamo(super().add_param_group)(param_group)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch's, and no option here
        self.__dict__.setdefault("master_weights", True)
        self.__dict__.setdefault("set_grad_none", True)
        self.__dict__.setdefault("_lr_on_device", {})
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict:
        # Base pickles defaults, state and groups only (copy.deepcopy, torch.save of the whole optimizer).
        own = {"master_weights": self.master_weights, "set_grad_none": self.set_grad_none}
        return super().__getstate__() | own

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Set the gradients to None, or fill them with zeros."""
        _without_dynamo(super().zero_grad)(self.set_grad_none if set_to_none is None else set_to_none)

    def state_dict(self) -> dict:
        """The state as torch's optimizers have it."""
        return _without_dynamo(super().state_dict)()

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters that have a gradient; `closure`, if given, computes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def has_master(self, param: Tensor) -> bool:
        """Whether the op updates a float32 master and writes the parameter as its rounded copy."""
        return self.master_weights and param.dtype in IN_16_BITS

    def lists(
        self, group: dict, names: tuple[str, ...], tag: Callable = lambda param: None, *, whole: bool = False
    ) -> dict[tuple, tuple]:
        """The group's tensors, sorted into lists that one call of the op can take; of DTensors this rank's shards.

        (device, layout over ranks or None, dtype of parameter and gradient, ``tag(param)``) ->
        (params, grads, one list per name, copies). ``whole``: UserError for a flat piece of a parameter.
        """
        lists = defaultdict(lambda: tuple([] for _ in range(3 + len(names))))
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if whole and is_flattened(param):
                got = "a piece of FullyShardedDataParallel's (fully_shard keeps tensors apart)"
                raise UserError(f"{self.op}: params must be whole tensors or DTensors for their norms, got {got}")
            layout = layout_of(param)
            local = layout.local if layout else _itself
            params, grads, *states, copies = lists[param.device, layout, param.dtype, grad.dtype, tag(param)]
            state = self.state_of(param, names)
            grads.append(local(grad))
            for name, tensors in zip(names, states, strict=True):
                tensors.append(state[name] if name == "step" else local(state[name]))
            if self.has_master(param):
                params.append(local(state["master"]))
                copies.append(local(param))
            else:
                params.append(local(param))
        return lists

    def state_of(self, param: Tensor, names: tuple[str, ...]) -> dict:
        """The parameter's state; "master" and ``names`` are made where they are missing."""
        state = self.state[param]
        for name in ("master", *names) if self.has_master(param) else names:
            if state.get(name) is None:
                state[name] = self._first_state(param, name)
        return state

    def initial_value(self, name: str) -> float:
        """What a state tensor other than "master" is filled with before the first step."""
        return 0.0

    def _first_state(self, param: Tensor, name: str) -> Tensor:
        if name == "master":
            return param.detach().to(torch.float32, memory_format=torch.preserve_format)
        if name == "step":
            return torch.zeros((), dtype=torch.float32, device=param.device)
        value, dtype = self.initial_value(name), self.state_dtype(param)
        return torch.full_like(param, value, dtype=dtype, memory_format=torch.preserve_format)

    @torch.no_grad()
    def reset_state(self) -> None:
        """Return to the state before the first step: write the initial values into the existing state tensors."""
        for state in self.state.values():
            for name in self.state_names:
                if name in state:
                    state[name].fill_(self.initial_value(name))

    def scaling(self, device: torch.device, grad_norm: Tensor | None = None) -> dict:
        """The scalars that torch.amp.GradScaler has set, on the device.

        grad_norm: of scaled gradients, which are then divided by so much more that it is at most max_grad_norm.
        """
        scalars = {name: scalar_on(device, getattr(self, name, None)) for name in ("grad_scale", "found_inf")}
        if grad_norm is not None:
            excess = scalar_on(device, grad_norm) / self.param_groups[0]["max_grad_norm"]
            scale = scalars["grad_scale"]
            scalars["grad_scale"] = excess.clamp(min=1) if scale is None else torch.maximum(excess, scale.double())
        return scalars

    def check_max_grad_norm(self, options: dict) -> None:
        """Raise UserError for a max_grad_norm that is out of range, or not that of the other groups."""
        norm = options["max_grad_norm"]
        if norm is not None and not norm > 0:
            raise UserError(f"{self.op}: max_grad_norm must be > 0 or None, got {float(norm)}")
        others = {group["max_grad_norm"] for group in getattr(self, "param_groups", ())} - {norm}
        if others:
            raise UserError(f"{self.op}: max_grad_norm must be {others.pop()} like the other groups', got {norm}")

    def grad_norm(self, lists: list[tuple[tuple, tuple[list[Tensor], ...]]]) -> Tensor | None:
        """The norm over the gradients of all lists; None where nothing is clipped."""
        if not lists or self.param_groups[0]["max_grad_norm"] is None:
            return None
        by_place: dict[tuple, list[Tensor]] = {}
        for (device, layout, *_), (_, grads, *_) in lists:
            by_place.setdefault((device, layout), []).extend(grads)
        norms = [
            layout.whole_norms(global_norm(grads)) if layout else global_norm(grads)
            for (_, layout), grads in by_place.items()
        ]
        first = norms[0]
        return first if len(norms) == 1 else global_norm([scalar_on(first.device, norm) for norm in norms])

    def lr_of(self, index: int, group: dict, device: torch.device) -> Tensor:
        """The learning rate of group number ``index`` on the device, without waiting for it."""
        lr = group["lr"]
        if isinstance(lr, Tensor):
            return scalar_on(device, lr)
        value, tensor = self._lr_on_device.get((index, device), (None, None))
        if tensor is None:
            tensor = torch.empty((), dtype=torch.float64, device=device)
        if value != lr:
            tensor.fill_(lr)  # the number is a kernel's argument: no copy from the host
            self._lr_on_device[index, device] = (lr, tensor)
        return tensor

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of this optimizer or of the one it replaces, into the dtypes and strides of `step`.

        Raises:
            UserError: a saved tensor of another shape than its parameter's; nothing is loaded then.
            ValueError: other groups than the optimizer's, from torch.
        """
        old_state, old_groups = self.state, [dict(group) for group in self.param_groups]
        saved: dict[Tensor, dict] = {}

        def take_state(_, given: dict) -> dict:
            """The last pre-hook: keep tensors from torch, which would cast them to the parameters' dtype."""
            ids = [i for group in given["param_groups"] for i in group["params"]]
            params = [param for group in self.param_groups for param in group["params"]]
            for saved_id, param in zip(ids, params, strict=False):  # torch checks how many there are
                saved[param] = given["state"].get(saved_id, {})
                self._check_shapes(param, saved[param])
            return {**given, "state": {name: given["state"][name] for name in given["state"].keys() - set(ids)}}

        def restore(_) -> None:
            """The first post-hook, after the groups are loaded: write the state into the existing tensors."""
            for group, old in zip(self.param_groups, old_groups, strict=True):
                if isinstance(old["lr"], Tensor):
                    group["lr"] = old["lr"].copy_(torch.as_tensor(group["lr"]))
                self.load_group(group, old)
            for param, state in saved.items():
                self._restore(param, state, old_state.get(param, {}))

        with _hooked(
            self.register_load_state_dict_pre_hook(take_state),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ):
            _without_dynamo(super().load_state_dict)(state_dict)

    def load_group(self, group: dict, old: dict) -> None:
        """Copy the loaded values of ``group`` into the tensors of ``old``."""

    def _check_shapes(self, param: Tensor, saved: dict) -> None:
        for name in (*self.state_names, "master"):
            value, shape = saved.get(name), [] if name == "step" else list(param.shape)
            got = list(value.shape) if isinstance(value, Tensor) else []  # a count may be a plain number
            if value is not None and got != shape:
                raise UserError(f"{self.op}: saved {name} must have shape {shape}, got {got}")

    def _restore(self, param: Tensor, saved: dict, old: dict) -> None:
        for name in (*self.state_names, "master"):
            value, tensor = saved.get(name), old.get(name)
            if value is None or (name == "master" and not self.has_master(param)):
                continue
            if tensor is None:
                tensor = self._first_state(param, name)
            self.state[param][name] = tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)


def _without_dynamo(method: Callable) -> Callable:
    """A method of torch's Optimizer without the wrapper that hides it from torch.compile, where nothing is compiled.

    The wrapper's first call imports torch._dynamo and sympy: a quarter of the time in which a run starts.
    """
    plain = getattr(method, "__wrapped__", None)
    return method if plain is None or "torch._dynamo" in sys.modules else partial(plain, method.__self__)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def _hooked(*hooks):
    """Remove the hooks afterwards."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def scalar_on(device: torch.device, scalar: Tensor | None) -> Tensor | None:
    """The number on ``device``, copied if necessary; waits only for a copy to the host."""
    if scalar is None or scalar.device == device:
        return scalar
    return scalar.to(device, non_blocking=device.type != "cpu")


def check_lr(op: str, options: dict, *not_negative: str) -> None:
    """UserError unless lr is one number, and it and the other options named are at least 0."""
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise UserError(f"{op}: lr must be a number or a tensor of one element, got shape {list(lr.shape)}")
    for name in ("lr", *not_negative):
        if not options[name] >= 0:
            raise UserError(f"{op}: {name} must be >= 0, got {float(options[name])}")


def check_betas(op: str, options: dict) -> None:
    """UserError unless betas are two numbers in [0, 1)."""
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise UserError(f"{op}: betas must be two numbers in [0, 1), got {betas}")
    for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
        if not 0 <= beta < 1:
            raise UserError(f"{op}: {name} must be in [0, 1), got {float(beta)}")


def check_nesterov(op: str, options: dict) -> None:
    """UserError for nesterov without momentum, or with dampening."""
    if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
        got = f"momentum {options['momentum']} and dampening {options['dampening']}"
        raise UserError(f"{op}: nesterov must have momentum > 0 and dampening 0, got {got}")


def check_false(op: str, **options: bool | None) -> None:
    """UserError for an option of torch's or apex's optimizer that is set and that the op lacks."""
    for name, value in options.items():
        if value:
            raise UserError(f"{op}: {name} must be False, got {value}")
