"""The measures of the optimizer equivalence report: the fused optimizers are equivalent by them, a wrong one is not."""

from dataclasses import replace

import pytest
import torch

from airank_fast.optim import FusedSGD, equivalence
from airank_fast.submission import optimizer_report

SMALL = {"shapes": ((((33, 5), (4, 3, 2)), ((7,), (1,))),), "seeds": (0, 1), "steps": (1, 20), "devices": ["cpu"]}


@pytest.fixture(scope="module")
def rows():
    return equivalence.measure(**SMALL)


def test_every_optimizer_dtype_and_number_of_steps_has_a_row(rows):
    ours = [row for row in rows if row["implementation"] == "airank_fast"]
    assert len(ours) == len(equivalence.CASES) * 3 * 2
    beside = {row["implementation"] for row in rows if row["optimizer"] == "FusedSGD"}
    assert beside >= {"the equation in torch, float32", "torch.optim.SGD, float32"}


def test_ours_are_as_near_as_plain_float32(rows):
    for row in rows:
        assert 0 < row["rms"] < 1e-6, row
        assert row["unrounded"] == 0
    ratio, _ = optimizer_report.largest_ratio(rows)
    assert ratio < 2


class ForgetsDecay(FusedSGD):
    """A mistake that changes the weights of a few steps by little."""

    def __init__(self, params, weight_decay, **options):
        super().__init__([{**group, "weight_decay": 0.0} for group in params], **options)


class DoesNotRound(FusedSGD):
    """Does not update one weight from its master."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for param in group["params"]:
                with torch.no_grad():
                    param.view(-1)[0] += 1


def test_a_wrong_optimizer_is_distinguished_from_a_right_one():
    case = equivalence.CASES[0]
    for ours in (ForgetsDecay, DoesNotRound):
        wrong = equivalence.measure(cases=[replace(case, ours=ours)], dtypes=(torch.bfloat16,), **SMALL)
        last = [row for row in wrong if row["implementation"] == "airank_fast"][-1]
        if ours is ForgetsDecay:
            assert optimizer_report.largest_ratio(wrong)[0] > 5
            assert last["unrounded"] == 0
        else:
            assert last["unrounded"] == 2 * 4


def test_the_report_states_equations_and_figures(rows):
    text = optimizer_report.markdown(rows, equivalence.environment())
    for part in ("v = momentum v - lr t (g + weight_decay w)", "u = (m / (1 - beta1^step))", "torch.optim.SGD"):
        assert part in text
    assert f"- torch: {torch.__version__}" in text
    row = next(row for row in rows if row["implementation"] == "airank_fast" and row["optimizer"] == "FusedLARS")
    assert f"| cpu | float32 | 1 | airank_fast | {row['max']:.1e} | {row['rms']:.1e} |" in text
    assert len(text.splitlines()) > len(rows)
