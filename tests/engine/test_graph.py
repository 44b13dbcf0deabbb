"""A captured step: the shapes that are captured, the inputs of a replay; filling up changes no result."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from airank_fast.data.text.pydoc import MaskedBlocks
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.tokens import Fill, collate
from airank_fast.engine.distributed import World
from airank_fast.engine.graph import CapturedStep
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.recipes import bert, resnet50
from airank_fast.recipes.command_line import parse, resolve

VOCAB_SIZE, LONGEST = 50, 16


def sentence_pairs(*lengths: int, seed: int) -> Samples:
    """Samples of these lengths; of each, 1 to 3 tokens are masked."""
    rng, lengths = np.random.default_rng(seed), np.array(lengths)
    num_masked = rng.integers(1, 4, len(lengths))
    tokens, masked = (np.concatenate([[0], counts.cumsum()]) for counts in (lengths, num_masked))
    ids = rng.integers(5, VOCAB_SIZE, tokens[-1]).astype(np.int32)
    positions = np.concatenate([np.arange(1, number + 1) for number in num_masked]).astype(np.int32)
    originals = rng.integers(5, VOCAB_SIZE, masked[-1]).astype(np.int32)
    return Samples(
        ids,
        np.zeros(len(ids), np.int8),
        tokens,
        positions,
        originals,
        masked,
        rng.integers(0, 2, len(lengths)).astype(np.int8),
    )


def bert_state(device="cpu", precision="fp32", dropout=0.0) -> State:
    recipe = replace(
        bert.MLPERF,
        size="tiny",
        batch_size=3,
        sequence_length=LONGEST,
        vocab_size=VOCAB_SIZE,
        dropout=dropout,
        precision=precision,
        max_position_embeddings=LONGEST,
        weight_decay=0.01,
    )
    job = bert.Job(recipe, bert.Options())
    return State(job, World(0, 1, 0, 1, torch.device(device)))


def test_filling_up_changes_neither_loss_nor_gradients():
    job, model = (state := bert_state()).job, state.networks["model"].double()
    results = []
    for fill in (None, Fill(LONGEST, 8)):
        batch = collate(sentence_pairs(4, 9, 16, seed=0), "cpu", fill)
        loss = job.loss(model, batch)
        results.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-14)


def test_a_shape_is_captured_when_it_comes_for_the_second_time():
    """With a substitute for the device's capture, which runs the step again on the tensors that it was given.

    Lengths are read from the tensors here, as a device does: those on the host are of the batch that was captured.
    """
    plain, graphed = bert_state(), bert_state()
    own = graphed.job.loss
    graphed.job.loss = lambda model, batch: own(model, replace(batch, lengths=batch.offsets.diff().tolist()))
    captured = []

    def capture(function):
        captured.append(function)
        return function

    step = CapturedStep(graphed.step, capture)
    fill = Fill(LONGEST, 16)
    lengths = [(4, 9, 10), (5, 8, 12), (16, 16, 15), (3, 3, 3), (16, 14, 16), (9, 9, 9), (15, 16, 16)]
    counts = []
    for number, of_step in enumerate(lengths):
        batch = collate(sentence_pairs(*of_step, seed=number), "cpu", fill)
        kept = copy.deepcopy(batch)
        losses = [run([batch], learning_rate=0.01 * (number + 1)) for run in (plain.step, step)]
        assert torch.equal(*losses)
        assert all(
            torch.equal(value, getattr(kept, name))
            for name, value in vars(batch).items()
            if isinstance(value, torch.Tensor)
        )
        counts.append(len(captured))
    assert counts == [0, 1, 1, 1, 2, 2, 2]  # 32, 32, 48, 16, 48, 32 and 48 tokens
    for name, tensor in plain.networks["model"].state_dict().items():
        assert torch.equal(graphed.networks["model"].state_dict()[name], tensor), name


def test_a_cuda_device_is_required():
    job = bert.Job(bert.RECIPES["pydoc"], bert.Options(cuda_graphs=True))
    with pytest.raises(UserError, match="--cuda-graphs: must have one CUDA device, got 1 of type cpu"):
        State(job, World(0, 1, 0, 1, torch.device("cpu")), cuda_graphs=True)
    with pytest.raises(UserError, match="--precision: must be bf16 or fp16 with --cuda-graphs and --data, got fp32"):
        resolve(parse(["bert-tiny", "--cuda-graphs", "--data", "somewhere"]), "fp32", 1)


@pytest.mark.gpu
def test_no_step_of_bert_waits_for_the_device():
    state = bert_state("cuda:0", "bf16", dropout=0.1)
    batches = [collate(sentence_pairs(4, 9, length, seed=length), "cuda") for length in range(5, 12)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            state.step([batch], learning_rate=0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_captured_step_of_bert_is_the_step(precision):
    plain, graphed = (bert_state("cuda:0", precision) for _ in range(2))
    step = CapturedStep(graphed.step)
    for number in range(8):
        samples = sentence_pairs(*np.random.default_rng(number).integers(6, 11, 3), seed=number)
        batch = collate(samples, "cuda", Fill(LONGEST, 16))
        losses = [run([batch], learning_rate=0.01).item() for run in (plain.step, step)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert step._captured


@pytest.mark.gpu
def test_a_captured_step_of_bert_drops_other_values_at_each_replay():
    step = CapturedStep(bert_state("cuda:0", "bf16", dropout=0.5).step)
    ids = np.random.default_rng(0).integers(5, VOCAB_SIZE, (3, LONGEST))
    batch = collate(MaskedBlocks(ids, np.ones((3, 1), int), ids[:, 1:2]), "cuda")
    losses = [step([batch], learning_rate=0.0).item() for _ in range(6)]
    assert step._captured
    assert len(set(losses[2:])) == 4


@pytest.mark.gpu
def test_a_captured_step_of_resnet_is_the_step():
    states = []
    for _ in range(2):
        job = resnet50.Job(replace(resnet50.RECIPES["digits"], batch_size=8, precision="bf16"), resnet50.Options())
        states.append(State(job, World(0, 1, 0, 1, torch.device("cuda:0"))))
    plain, graphed = states
    step = CapturedStep(graphed.step)
    for number in range(6):
        torch.manual_seed(number)
        batch = plain.job.warm_up_batch(plain.world, plain.device, plain.dtype)
        losses = [run([batch], learning_rate=0.01).item() for run in (plain.step, step)]
        # cuDNN's gradients differ in their last bits, and batch norms over 8 numbers magnify that
        assert losses[0] == pytest.approx(losses[1], rel=1e-2 if number < 3 else 0.1)
    assert step._captured
