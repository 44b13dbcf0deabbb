"""Inference on a CPU: this project's engines against torch, ONNX Runtime and OpenVINO called directly, in turns.

    python bench/infer.py [--cases bs1 bs32 int8 int8-bs32 bert] [--threads N] [--rounds N] [--no-compile] [--save]

    bs1, bs32   ResNet-50 of ten classes, fp32, embedded digits enlarged to 224 x 224 pixels, batches of 1 and 32
    int8        the same network and pictures in int8, calibrated on training pictures
    bert        masked language model of BERT-base with two layers, vocabulary 30522, batches of 8 sequences whose
                lengths are drawn once: min(384, a lognormal number with median 160 and sigma 0.4), 170 on average, like
                SQuAD's questions with their paragraphs. One token in seven is predicted. Unpadded against padded, to
                384 tokens as MLPerf's reference implementation pads, and to the longest of the batch.

Contestants are called with the same three inputs in turn. torch eager is the network in torch's own modules in
channels_last. ONNX Runtime and OpenVINO run a file that torch.onnx.export made of that network. Outputs are compared
before anything is timed: in fp32 within 1e-3 of the largest, in int8 within 0.3. A call that is not timed comes before
each one that is: the threads of a runtime wait for work without sleeping for some time, and slow down the next runtime.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn

from airank_fast.data.text.tokens import TokenBatch
from airank_fast.inference.engine import open_engine
from airank_fast.inference.export import prepared
from airank_fast.inference.folding import Call
from airank_fast.inference.graphs import PaddedBert, padded_arguments
from airank_fast.inference.loading import load_job
from airank_fast.inference.samples import CPU, Samples
from airank_fast.inference.sessions import arrays
from airank_fast.job import Job
from airank_fast.models import bert as network
from airank_fast.models.resnet import resnet50
from airank_fast.nn import PackedSequences
from airank_fast.recipes import bert

SIDE, INPUTS = 224, 3
CASES = {
    "bs1": "ResNet-50, 224 px, fp32, batch 1",
    "bs32": "ResNet-50, 224 px, fp32, batch 32",
    "int8": "ResNet-50, 224 px, int8, batch 1",
    "int8-bs32": "ResNet-50, 224 px, int8, batch 32",
    "bert": "BERT-base, 2 layers, fp32, 8 sequences of natural lengths",
}
LONGEST, MEDIAN, SIGMA, SEQUENCES = 384, 160, 0.4, 8
VOCAB_SIZE, PREDICTED = 30522, 7
EXACT, QUANTISED = 1e-3, 0.3  # of the largest output


def options_of_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/infer.jsonl")
    options = parser.parse_args()
    if options.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    return options


def in_turn(function: Callable[[Any], Any], inputs: list[Any]) -> Callable[[], Any]:
    """A call of the function with each of the inputs in turn, beginning with the first."""
    turns = cycle(inputs)
    return lambda: function(next(turns))


def without_gradients(module: Callable) -> Callable[[Tensor], Tensor]:
    """The module as torch calls it for inference."""

    def call(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(images)

    return call


def trained(module: nn.Module) -> None:
    """Weights and statistics of batch norms as if it were: new ones are zeros and ones, which would be no work."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in ((norm.weight, 0.2, 0.8), (norm.bias, -0.2, 0.2), (norm.running_var, 0.5, 2.0)):
                nn.init.uniform_(tensor, low, high)


def ort_session(path: Path, threads: int) -> Callable[[list], list]:
    """ONNX Runtime as its own documentation calls it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def openvino_model(path: Path, threads: int) -> Callable[[list], list]:
    """OpenVINO, told to use so many threads and to keep float32."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda inputs: [request.infer(inputs)[output] for output in compiled.outputs]


def plain_network(job: Job, networks: dict[str, nn.Module]) -> nn.Module:
    """The network in torch's own modules."""
    plain = resnet50(job.recipe.num_classes, fused=False)
    plain.load_state_dict(networks["model"].state_dict())
    return plain.eval().to(memory_format=torch.channels_last)


def exported(module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], dynamic: Any, folder: Path) -> Path:
    """A file that torch's exporter made, as it comes."""
    path = folder / "direct.onnx"
    torch.onnx.export(
        module,
        inputs,
        path,
        input_names=list(names),
        dynamo=True,
        dynamic_shapes=dynamic,
        external_data=False,
        verbose=False,
    )
    return path


def pictures(batch_size: int, precision: str, options: argparse.Namespace, folder: Path) -> dict[str, Callable]:
    """Contestants for ResNet-50."""
    job, networks = load_job(["resnet50", "--image-size", str(SIDE)], None, CPU)
    trained(networks["model"])
    samples = Samples(job)
    samples.load(range(batch_size * INPUTS))
    batches = [samples.batch(range(first, first + batch_size)) for first in range(0, batch_size * INPUTS, batch_size)]
    images = [batch.images for batch in batches]
    opened = {"device": CPU, "threads": options.threads, "max_batch": batch_size}
    ours = open_engine("onnxruntime", job, networks, precision=precision, **opened)
    made = prepared(job, networks, precision)
    folded = open_engine("torch", job, networks, **opened)
    plain = plain_network(job, networks)
    names = ("input",)
    path = made.path
    if precision == "fp32":
        path = exported(plain, (images[0].repeat(2, 1, 1, 1),), names, ({0: "batch"},), folder)
    contestants = {
        "airank_fast onnxruntime": in_turn(ours.run, batches),
        "airank_fast torch": in_turn(folded.run, batches),
        "torch eager": in_turn(without_gradients(plain), images),
        "ONNX Runtime directly": in_turn(ort_session(path, options.threads), [arrays([each]) for each in images]),
    }
    if harness.is_there("openvino"):
        peer = openvino_model(path, options.threads)
        contestants["OpenVINO directly"] = in_turn(peer, [arrays([each]) for each in images])
    if options.compile and precision == "fp32":
        contestants["torch.compile"] = in_turn(without_gradients(harness.compiled(plain)), images)
    print(f"{precision}, batch {batch_size}: {ours.facts}")
    return contestants


def natural_lengths(count: int) -> list[int]:
    """Tokens of sequences, in the order in which they are drawn; see the top of this file."""
    draw = random.Random(0)
    return [min(LONGEST, max(8, round(math.exp(draw.gauss(math.log(MEDIAN), SIGMA))))) for _ in range(count)]


def sequences(lengths: list[int], seed: int) -> TokenBatch:
    """A batch of random tokens, short sequences first."""
    generator = torch.Generator().manual_seed(seed)
    lengths = sorted(lengths)
    total = sum(lengths)
    ids = torch.randint(1000, VOCAB_SIZE, (total,), generator=generator)
    masked = torch.arange(0, total, PREDICTED)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return TokenBatch(
        input_ids=ids,
        token_type_ids=torch.zeros_like(ids),
        position_ids=positions,
        masked_positions=masked,
        labels=ids[masked],
        next_sentence_label=None,
        lengths=lengths,
    )


def padded_to(batch: TokenBatch, longest: int | None) -> list:
    """The batch's arrays as padded ONNX graphs take them; longest: None for the longest of the batch."""
    places = {"token_type_ids": batch.token_type_ids, "position_ids": batch.position_ids}
    call = Call(
        (batch.input_ids,),
        {**places, "sequences": PackedSequences(batch.lengths), "masked_positions": batch.masked_positions},
    )
    ids, mask, types, rows = padded_arguments(call)
    if longest is not None and longest > ids.shape[1]:
        width = ids.shape[1]
        rows = rows // width * longest + rows % width
        ids, mask, types = (nn.functional.pad(each, (0, longest - width)) for each in (ids, mask, types))
    return arrays([ids, mask, types, rows])


def texts(options: argparse.Namespace, folder: Path) -> dict[str, Callable]:
    """Contestants for BERT."""
    job = bert.Job(replace(bert.MLPERF, size="base"), bert.Options())
    config = network.size("base") | {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE}
    torch.manual_seed(0)
    model = network.BertForPreTraining(**config).eval()
    plain = network.BertForPreTraining(**config, fused=False).eval()
    plain.load_state_dict(model.state_dict())
    lengths = natural_lengths(SEQUENCES * INPUTS)
    batches = [sequences(lengths[SEQUENCES * k : SEQUENCES * (k + 1)], k) for k in range(INPUTS)]
    print(f"bert: {sum(lengths) / len(lengths):.0f} tokens a sequence on average")
    ours = open_engine("torch", job, {"model": model}, device=CPU, threads=options.threads)
    example = tuple(torch.from_numpy(each) for each in padded_to(batches[0], None))
    path = exported(PaddedBert(plain).eval(), example, PaddedBert.INPUTS, PaddedBert.DYNAMIC, folder)
    direct = ort_session(path, options.threads)
    return {
        "airank_fast torch, unpadded": in_turn(ours.run, batches),
        "ONNX Runtime, padded to 384": in_turn(direct, [padded_to(batch, LONGEST) for batch in batches]),
        "ONNX Runtime, padded to the batch": in_turn(direct, [padded_to(batch, None) for batch in batches]),
    }


def check(contestants: dict[str, Callable], tolerance: float) -> None:
    """Outputs for each input must agree with those of the first contestant that is torch."""
    reference = next(name for name in contestants if name.startswith(("torch", "airank_fast torch")))
    for _ in range(INPUTS):
        expected = first_output(contestants[reference]())
        for name, function in contestants.items():
            if name != reference:
                error = (first_output(function()) - expected).abs().max() / expected.abs().max()
                assert error <= tolerance, f"{name} differs by {error:.2g} of the largest output"


def first_output(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    return torch.from_numpy(outputs[0])


def main() -> None:
    options = options_of_line()
    torch.set_num_threads(options.threads)
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            if case == "bert":
                contestants, ours, tolerance = texts(options, Path(folder)), "airank_fast torch, unpadded", EXACT
            else:
                precision, batch_size = "int8" if case.startswith("int8") else "fp32", 32 if "bs32" in case else 1
                contestants = pictures(batch_size, precision, options, Path(folder))
                ours, tolerance = "airank_fast onnxruntime", EXACT if precision == "fp32" else QUANTISED
            check(contestants, tolerance)
            times = harness.time_rounds(contestants, num_rounds=options.rounds, num_warm_up=INPUTS, num_bytes=0)
            print(harness.as_text(CASES[case], times, ours))
            if options.save:
                harness.save("infer", CASES[case], times, ours, threads=options.threads)


if __name__ == "__main__":
    main()
