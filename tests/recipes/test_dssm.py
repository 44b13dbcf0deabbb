"""DSSM's job: its losses by their definition, its options, and the lexical baseline, which lies below its target."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from airank_fast.data.text import query_pairs
from airank_fast.data.text.query_pairs import Line, PairBatch
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.optim import CombinedOptimizer, FusedAdam
from airank_fast.recipes import dssm_options
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.dssm import RECIPES, Job

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
LINES = [Line(f"query {n}", f"document {n * n}", 1) for n in range(8)]
LINES += [Line("query 0", "document 49", 1), Line("query 5", "other 5", 0)]


def job(*options: str, world_size: int = 1) -> Job:
    request = parse(["dssm", "--buckets", "300", "--width", "12", "--dropout", "0", *options], world_size=world_size)
    return Job(resolve(request, "fp32", world_size), request.options)


def first_batch(made: Job, tmp_path):
    return batches(made, tmp_path, 1)[0]


def batches(made: Job, tmp_path, number: int) -> list[PairBatch]:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{query}\t{document}\t{label}\n" for query, document, label in LINES))
    made.options = parse(["dssm", "--data", str(path), "--eval-data", str(path)]).options
    made.open_data(ALONE, torch.device("cpu"), torch.float32)
    found = list(islice(made.train_batches(0), number))
    made.close()
    return found


def random_model(made: Job):
    torch.manual_seed(0)
    model = made.build()["model"]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def expected_loss(made: Job, model, batch, candidates_of) -> float:
    """The mean over queries of log(sum of exp(scale * cosine) over candidates) - that of their own document."""
    queries, documents = (vectors.double() for vectors in made.predict({"model": model}, batch))
    losses = []
    for row in range(len(queries)):
        own, *others = candidates_of(row)
        logits = made.recipe.scale * documents[[own, *others]] @ queries[row]
        losses.append(logits.logsumexp(0) - logits[0])
    return (sum(losses) / len(losses)).item()


@pytest.mark.parametrize("fused", ["--fused", "--no-fused"])
def test_the_loss_with_sampled_negatives(fused, tmp_path):
    made = job("--negatives", "3", "--batch-size", "8", fused)
    batch, model = first_batch(made, tmp_path), random_model(made)
    loss = made.loss(model, batch)
    expected = expected_loss(made, model, batch, lambda row: range(4 * row, 4 * row + 4))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()


@pytest.mark.parametrize("fused", ["--fused", "--no-fused"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_loss_with_negatives_of_the_batch_leaves_out_what_matches(fused, size, tmp_path):
    made = job("--negatives", "0", "--batch-size", "8", "--candidates", str(size), fused)
    batch, model = first_batch(made, tmp_path), random_model(made)
    query, document = batch.query.tolist(), batch.document.tolist()

    def candidates_of(row):
        first = row - row % size
        group = [other for other in range(first, first + size) if other != row]
        return [row, *(o for o in group if query[o] != query[row] and document[o] != document[row])]

    loss = made.loss(model, batch)
    assert loss.item() == pytest.approx(expected_loss(made, model, batch, candidates_of), rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(parameter.grad.to_dense()).all() for parameter in model.parameters())
    if size == 8:
        assert any(len(candidates_of(row)) < 8 for row in range(8))


@pytest.mark.parametrize(
    ("options", "kind"),
    [((), CombinedOptimizer), (("--no-sparse",), FusedAdam), (("--no-fused",), torch.optim.Adam)],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_by_the_projects_adam_and_by_torchs(options, kind, precision, tmp_path):
    """In mixed precision the former keeps masters, of layers in 16 bits behind a float32 table."""
    made = job("--batch-size", "8", "--epsilon", "1e-6", *options)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    (tower,) = state.networks["model"].towers
    assert type(state.optimizers[0]) is kind
    has_masters = precision == "bf16" and kind is not torch.optim.Adam
    assert tower.layers[0].weight.dtype == (torch.bfloat16 if has_masters else torch.float32)
    assert tower.table.weight.dtype == torch.float32
    before, batch = tower.table.weight.detach().clone(), first_batch(made, tmp_path)
    losses = [state.step([batch], learning_rate=0.01).item() for _ in range(20)]
    assert losses[-1] < losses[0]
    changed = (tower.table.weight != before).any(1).nonzero()[:, 0]
    assert torch.equal(changed, torch.cat([batch.query_ids, batch.document_ids]).unique())


def test_lazy_adam_keeps_the_rows_of_other_batches(tmp_path):
    changed = {}
    for options in ((), ("--no-sparse",)):
        made = job("--batch-size", "4", *options)
        state = State(made, ALONE)
        (tower,) = state.networks["model"].towers
        first, second = batches(made, tmp_path, 2)
        state.step([first], learning_rate=0.01)
        before = tower.table.weight.detach().clone()
        state.step([second], learning_rate=0.01)
        changed[options] = (tower.table.weight != before).any(1).nonzero()[:, 0].tolist()
    of_second = {*second.query_ids.tolist(), *second.document_ids.tolist()}
    assert {*changed[()]} == of_second < {*changed["--no-sparse",]}


def test_groups_are_of_at_most_a_micro_batch_unless_stated():
    assert job().recipe.candidates == job(world_size=1).recipe.batch_size
    assert job("--gradient-accumulation-steps", "2", world_size=4).recipe.candidates == 32
    assert job("--batch-size", "64").recipe.candidates == 64
    made = job("--batch-size", "64", "--candidates", "48")
    with pytest.raises(UserError, match=r"--candidates: must be a divisor of the 64 samples .* got 48"):
        made.warm_up_batch(ALONE, torch.device("cpu"), torch.float32)


def test_a_warm_up_batch_has_the_form_of_a_real_one(tmp_path):
    for options in (("--negatives", "2"), ("--negatives", "0")):
        made = job("--batch-size", "8", *options)
        batch, noise = first_batch(made, tmp_path), made.warm_up_batch(ALONE, torch.device("cpu"), torch.float32)
        assert noise.num_samples == batch.num_samples == 8
        for name, tensor in batch.tensors().items():
            assert noise.tensors()[name].dtype == tensor.dtype, name
            if not name.endswith(("ids", "weights")):
                assert noise.tensors()[name].shape == tensor.shape, name
        assert torch.isfinite(made.loss(random_model(made), noise))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--negatives", "25"], r"--negatives: must be in \[0, 24\], got 25"),
        (["--candidates", "1"], "--candidates: must be at least 2, got 1"),
        (["--dropout", "1"], r"--dropout: must be in \[0, 1\), got 1"),
        (["--scale", "0"], "--scale: must be above 0, got 0"),
        (["--eval-data", "x"], "--eval-data: must be left out without --data, got x"),
        (["--skip-corrupt"], "--skip-corrupt: must be left out without --data"),
        (["--cuda-graphs"], "--cuda-graphs: must be left out"),
        (["--warmup-epochs", "99"], r"--warmup-epochs: must be in \[0, "),
        (["--target", "order_rate=2"], r"--target: must be a fraction in \(0, 1\], got 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)


def test_the_lexical_baseline_is_below_the_target(monkeypatch):
    """tf-idf over the same trigrams, with the same split: what a new network begins with."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "bench")
    baseline = importlib.import_module("baselines").lexical()
    for name in ("baselines", "harness"):
        del sys.modules[name]
    assert 0.9 < baseline < RECIPES["code_search"].target - 0.003


def test_the_most_negatives_of_the_command_line_are_those_of_the_reader():
    assert dssm_options.MOST_NEGATIVES == query_pairs.MOST_NEGATIVES
