"""The tests that the adaptive optimizers' ops share: against float64, against their references, and against wrong
arguments; on the CPU and, with -m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from ops.tensor_lists import (
    COPY_DTYPES,
    DEVICES,
    DTYPES,
    HALF,
    LAYOUTS,
    ONES,
    SIZES,
    WRONG_FOR_ALL,
    assert_twice_the_error_at_most,
    assert_written_copies_are_where_a_step_begins,
    cloned,
    copies_of,
    not_aligned,
    random_lists,
    strided,
    three,
)
from ops.threads import one_thread

NAN, INF = float("nan"), float("inf")


class AdaptiveTests:
    """A subclass, of the name of its op, states what its optimizer is.

    An op's arguments are lists of parameters, gradients, each kind of state, steps and copies, and the learning rate.
    """

    name: str
    options: dict[str, dict]
    states: dict[str, str]  # name of the op's list -> of torch's state
    squares: tuple[str, ...]  # those lists that hold no negative numbers
    torchs: type[torch.optim.Optimizer]
    step: staticmethod
    reference: staticmethod
    one_option: ClassVar[dict] = {"weight_decay": 0.1}
    float32_units = 0.0  # see assert_twice_the_error_at_most

    def pytest_generate_tests(self, metafunc):
        if "options" in metafunc.fixturenames:
            metafunc.parametrize("options", self.options.values(), ids=self.options.keys())
        if "step" in metafunc.fixturenames:
            metafunc.parametrize("step", [self.step, self.reference], ids=["op", "reference"])
        if "message" in metafunc.fixturenames:
            wrong = WRONG_FOR_ALL | self.wrong()
            metafunc.parametrize(("message", "changes"), wrong.items(), ids=range(len(wrong)))

    def made(self, device="cpu", param_dtype=torch.float32, grad_dtype=None, copy_dtype=None, sizes=SIZES):
        """Arguments of the op, of random numbers, as after some steps of training: another number for each tensor."""
        wide = torch.promote_types(param_dtype, torch.float32)
        dtypes = (param_dtype, grad_dtype or param_dtype, *[wide] * len(self.states))
        params, grads, *states = random_lists(device, sizes, *dtypes)
        for name, tensors in zip(self.states, states, strict=True):
            for tensor in tensors:
                tensor.mul_(0.1)
                if name in self.squares:
                    tensor.square_()
        steps = [torch.tensor(float(i % 5), device=device) for i in range(len(sizes))]
        return [params, grads, *states, steps, copies_of(params, copy_dtype), torch.tensor(0.1, device=device)]

    def results(self, arguments):
        """Parameters and state: the lists with arithmetic."""
        return [arguments[0], *arguments[2 : 2 + len(self.states)]]

    def in_float64(self, arguments, options):
        lists = [[t.to(torch.float64, copy=True) for t in part] for part in arguments[:-3]]
        steps = [t.clone() for t in arguments[-3]]
        self.reference(*lists, steps, [], arguments[-1].double(), **options)
        return self.results(lists)

    def torch_step(self, arguments, options):
        """The results of torch's optimizer in the parameters' dtype."""
        params, grads, *states, steps, _, lr = cloned(arguments)
        optimizer = self.torch_optimizer(params, lr.item(), options)
        for i, param in enumerate(params):
            param.grad = grads[i].to(param.dtype)
            of_param = {of_torch: states[s][i].to(param.dtype) for s, of_torch in enumerate(self.states.values())}
            optimizer.state[param] = {"step": steps[i].cpu(), **of_param}
        optimizer.step()
        return [params, *[[optimizer.state[param][of_torch] for param in params] for of_torch in self.states.values()]]

    def torch_optimizer(self, params, lr, options):
        return self.torchs(params, lr=lr, foreach=False, **options)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("param_dtype", "grad_dtype"), DTYPES)
    def test_error_is_at_most_twice_torchs(self, device, options, param_dtype, grad_dtype):
        arguments = self.made(device, param_dtype, grad_dtype)
        arguments[-1] = arguments[-1].double()
        exact, plain = self.in_float64(arguments, options), self.torch_step(arguments, options)
        ours = cloned(arguments)
        self.step(*ours, **options)
        for got, theirs, expected in zip(self.results(ours), plain, exact, strict=True):
            assert_twice_the_error_at_most(got, theirs, expected, self.float32_units)
        torch.testing.assert_close(ours[1], arguments[1], rtol=0, atol=0)  # gradients are only read
        assert [t.item() for t in ours[-3]] == [t.item() + 1 for t in arguments[-3]]

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("grad_dtype", "copy_dtype"), COPY_DTYPES)
    def test_copies_are_the_parameters_rounded(self, device, grad_dtype, copy_dtype):
        arguments = self.made(device, grad_dtype=grad_dtype, copy_dtype=copy_dtype)
        self.step(*arguments)
        for param, copy in zip(arguments[0], arguments[-2], strict=True):
            assert torch.equal(copy, param.to(copy_dtype))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("copy_dtype", [torch.bfloat16, torch.float16])
    def test_weights_written_into_copies_are_where_the_step_begins(self, device, step, copy_dtype):
        arguments = self.made(device, copy_dtype=copy_dtype)
        assert_written_copies_are_where_a_step_begins(step, arguments, len(arguments) - 2)

    @pytest.mark.parametrize("device", DEVICES)
    def test_nan_and_inf_propagate(self, device, step):
        param = torch.tensor([1.0, 1.0, INF, NAN, 1.0], device=device)
        grad = torch.tensor([NAN, INF, 1.0, 1.0, 1.0], device=device)
        states = [[torch.zeros_like(param)] for _ in self.states]
        count, copy = torch.zeros((), device=device), param.bfloat16()
        step([param], [grad], *states, [count], [copy], torch.tensor(0.5, device=device))
        expected = torch.tensor([NAN, NAN, INF, NAN, 0.5], device=device)  # inf / inf
        torch.testing.assert_close(param, expected, equal_nan=True)
        torch.testing.assert_close(copy.float(), expected, equal_nan=True)
        for name, (state,) in zip(self.states, states, strict=True):
            assert state[0].isnan()
            assert state[1] == INF if name in self.squares else not state[1].isfinite()

    @pytest.mark.parametrize("device", DEVICES)
    def test_grad_scale_divides_and_found_inf_writes_nothing(self, device, step):
        arguments = self.made(device, grad_dtype=torch.float16, copy_dtype=torch.float16)
        unscaled, scaled, skipped = cloned(arguments), cloned(arguments), cloned(arguments)
        scaled[1] = [g * 4 for g in scaled[1]]
        four, zero = torch.full((1,), 4.0, device=device), torch.zeros(1, device=device)
        self.step(*unscaled)
        step(*scaled, grad_scale=four, found_inf=zero)
        step(*skipped, grad_scale=four, found_inf=zero + 1)
        for part in (0, *range(2, len(arguments) - 1)):
            torch.testing.assert_close(scaled[part], unscaled[part])
        torch.testing.assert_close(skipped[:-1], arguments[:-1], rtol=0, atol=0)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("grad_layout", LAYOUTS)
    @pytest.mark.parametrize("param_layout", LAYOUTS)
    def test_any_strides(self, device, param_layout, grad_layout):
        def lists(param, grad):
            layouts = (param, grad, *[param, grad][: len(self.states)])
            tensors = [[strided(layout, seed, device=device)] for seed, layout in enumerate(layouts)]
            for name, (tensor,) in zip(self.states, tensors[2:], strict=True):
                if name in self.squares:
                    tensor.square_()
            steps, _, lr = self.made(device, sizes=[0])[-3:]
            return [*tensors, steps, [strided(grad, 4, torch.bfloat16, device)], lr]

        ours, expected = lists(param_layout, grad_layout), lists("contiguous", "contiguous")
        strides = [tensor.stride() for (tensor,) in ours[:-1]]
        self.step(*ours)
        self.step(*expected)
        for got, want in zip(ours[:-1], expected[:-1], strict=True):
            assert torch.equal(got[0], want[0])
        assert strides == [tensor.stride() for (tensor,) in ours[:-1]]

    def test_the_kernel_is_loaded_where_the_extension_is_built(self):
        pytest.importorskip("airank_fast._C")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{self.name}_", "CPU")

    def test_result_does_not_depend_on_the_number_of_threads(self):
        arguments = self.made(sizes=[100_003, 5, 70_001], copy_dtype=torch.bfloat16)
        one, all_threads = cloned(arguments), cloned(arguments)
        self.step(*all_threads)
        with one_thread():
            self.step(*one)
        torch.testing.assert_close(one[:-1], all_threads[:-1], rtol=0, atol=0)

    @pytest.mark.parametrize("device", DEVICES)
    def test_more_tensors_than_one_launch_holds(self, device):
        arguments = self.made(device, sizes=[i % 7 for i in range(1600)], copy_dtype=torch.bfloat16)
        expected = cloned(arguments)
        self.step(*arguments)
        self.reference(*expected)
        torch.testing.assert_close(arguments[:-2], expected[:-2])

    def test_views_that_are_not_aligned(self):
        flat = self.made(sizes=[2001, 2001], copy_dtype=torch.bfloat16)
        odd = [*not_aligned(flat[:-3]), cloned(flat)[-3], *not_aligned(flat[-2:])]
        self.step(*flat)
        self.step(*odd)
        torch.testing.assert_close(flat[:-1], odd[:-1], rtol=0, atol=0)

    def test_empty_lists_and_empty_tensors(self, step):
        nothing = [[] for _ in range(4 + len(self.states))]
        step(*nothing, torch.tensor(0.1))
        lists, count = [[torch.empty(0, 3)] for _ in range(2 + len(self.states))], torch.zeros(())
        step(*lists, [count], [], torch.tensor(0.1))
        assert count == 1

    def good(self):
        """Keyword arguments of the op for three tensors of [4, 3]."""
        lists = {name: three() for name in ("params", "grads", *self.states)}
        return lists | {"steps": [torch.ones(()) for _ in range(3)], "copies": [], "lr": torch.tensor(0.1)}

    def wrong(self):
        first, *_, last = *self.states, *self.states
        return {
            "grads must be float16, got float32": {"params": [HALF] * 3},
            f"{last} must be float32, got float16": {last: [HALF] * 3},
            f"{first} must be float64, got float32": {"params": [ONES.double()] * 3, "grads": [ONES.double()] * 3},
            f"{first} must have as many tensors as params (3), got 0": {first: []},
            f"{last}[0] must have shape [4, 3], got [4]": {last: [ONES[:, 0]] * 3},
            "steps must have as many tensors as params (3), got 1": {"steps": [torch.ones(())]},
            "steps[1] must be one float32 number on cpu, got int64 of shape [] on cpu": {
                "steps": [torch.ones(()), torch.tensor(1), torch.ones(())]
            },
            "steps[0] must be one float32 number on cpu, got float32 of shape [4, 3] on cpu": {"steps": [ONES] * 3},
        }

    def test_wrong_arguments_are_named_in_one_line(self, step, message, changes):
        with pytest.raises(RuntimeError) as caught:
            step(**self.good() | changes)
        assert str(caught.value) == f"{self.name}: {message}"

    @pytest.mark.parametrize("device", DEVICES)
    def test_opcheck(self, device):
        arguments = self.made(device, sizes=[5, 0, 33], copy_dtype=torch.bfloat16)
        op = getattr(torch.ops.airank_fast, f"{self.name}_").default
        torch.library.opcheck(op, tuple(arguments), self.one_option)

    @pytest.mark.parametrize("device", DEVICES)
    def test_compiles_without_graph_breaks(self, device):
        of_op = self.step

        @torch.compile(fullgraph=True, backend="aot_eager")
        def step(params, grads, *rest):
            of_op(params, [g * 2 for g in grads], *rest)
            return params[1] + 1

        compiled, eager = (self.made(device, sizes=[5, 7], copy_dtype=torch.bfloat16) for _ in range(2))
        returned = step(*compiled)
        of_op(eager[0], [g * 2 for g in eager[1]], *eager[2:])
        for got, want in zip(compiled[:-1], eager[:-1], strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        assert torch.equal(returned, eager[0][1] + 1)

    @pytest.mark.gpu
    def test_captured_step_sees_new_scalars_and_counts(self):
        arguments = self.made("cuda", copy_dtype=torch.bfloat16)
        expected = cloned(arguments)
        scale, found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(*arguments, grad_scale=scale, found_inf=found_inf)
        for lr, skip in [(0.1, 0), (0.5, 0), (0.2, 1), (0.3, 0)]:
            arguments[-1].fill_(lr)
            found_inf.fill_(skip)
            scale.fill_(1 + lr)
            graph.replay()
            self.reference(*expected[:-1], arguments[-1], grad_scale=scale, found_inf=found_inf)
        torch.testing.assert_close(arguments[0], expected[0])
        assert [t.item() for t in arguments[-3]] == [t.item() for t in expected[-3]]
