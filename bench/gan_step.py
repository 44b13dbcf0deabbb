"""Training steps of CycleGAN and pix2pix at 256 px against junyanz's structure in plain torch, on a batch in memory.

    python bench/gan_step.py [--tasks cyclegan pix2pix] [--size N] [--precision fp32|bf16] [--rounds N] [--no-compile]
                             [--save]

Peers, in turns: the networks of torch's own modules (the task's --no-fused) in the order of junyanz's
`optimize_parameters`, each generator and discriminator called once for each picture, with torch's Adam; contiguous, in
channels_last, and contiguous under torch.compile, each network by itself; in bf16 under autocast. airank_fast is the
engine's step of the task's job. Batches are noise, of one picture as in both papers; peers have no image pool.

On a CPU the seconds of a step in convolutions are measured too (`products_s`): airank_fast has them from torch. So are
those in reflection padding (`paddings_s`), which a convolution that reads its padding itself would save at most.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import harness
import torch
from picture_step import ALONE, DEVICE, LAYOUTS, RATE, job_of, products_s
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.engine.state import State

OURS = "airank_fast"
TASKS = ("cyclegan", "pix2pix")
RECIPE = "cityscapes"
BETAS = (0.5, 0.999)
PADDINGS = re.compile("reflection_pad")
Networks = dict[str, nn.Module]


class Plain:
    """A step as junyanz's models have it: the losses, and the gradients that each of them needs."""

    def __init__(self, job: Any, batch: Any, layout: torch.memory_format, compiled: bool) -> None:
        self.networks = {name: net.to(DEVICE, memory_format=layout).train() for name, net in job.build().items()}
        self.called: Networks = self.networks
        if compiled:
            self.called = {name: harness.compiled(network) for name, network in self.networks.items()}
        self.a, self.b = (t.contiguous(memory_format=layout) for t in (batch.a, batch.b))
        self.recipe = job.recipe
        self.generators = [net for name, net in self.networks.items() if name.startswith("G")]
        self.discriminators = [net for name, net in self.networks.items() if name.startswith("D")]
        self.optimizers = [
            torch.optim.Adam([p for net in nets for p in net.parameters()], lr=RATE, betas=BETAS)
            for nets in (self.generators, self.discriminators)
        ]

    def __call__(self) -> list[Tensor]:
        return self.cyclegan() if len(self.generators) == 2 else self.pix2pix()

    def cyclegan(self) -> list[Tensor]:
        """Both generators, then both discriminators."""
        to_b, to_a, tells_b, tells_a = (self.called[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        recipe, (of_generators, of_discriminators) = self.recipe, self.optimizers
        with self.autocast():
            fake_b = to_b(self.a)
            back_a = to_a(fake_b)
            fake_a = to_a(self.b)
            back_b = to_b(fake_a)
            self.learns(self.discriminators, False)
            identity = F.l1_loss(to_b(self.b), self.b) + F.l1_loss(to_a(self.a), self.a)
            cycle = F.l1_loss(back_a, self.a) + F.l1_loss(back_b, self.b)
            fooling = self.judged(tells_b(fake_b), True) + self.judged(tells_a(fake_a), True)
            loss = fooling + recipe.cycle_weight * (cycle + recipe.identity_weight * identity)
        self.update(of_generators, [loss])
        self.learns(self.discriminators, True)
        pairs = ((tells_b, self.b, fake_b), (tells_a, self.a, fake_a))
        losses = [self.telling(net, real, fake.detach()) for net, real, fake in pairs]
        self.update(of_discriminators, losses)
        return [loss.detach(), *(t.detach() for t in losses)]

    def pix2pix(self) -> list[Tensor]:
        """The discriminator, then the generator."""
        to_b, tells = self.called["G"], self.called["D"]
        of_generator, of_discriminator = self.optimizers
        with self.autocast():
            fake = to_b(self.a)
        self.learns(self.discriminators, True)
        of_pairs = self.telling(tells, torch.cat([self.a, self.b], 1), torch.cat([self.a, fake.detach()], 1))
        self.update(of_discriminator, [of_pairs])
        self.learns(self.discriminators, False)
        with self.autocast():
            loss = self.judged(tells(torch.cat([self.a, fake], 1)), True)
            loss = loss + self.recipe.l1_weight * F.l1_loss(fake, self.b)
        self.update(of_generator, [loss])
        return [loss.detach(), of_pairs.detach()]

    def autocast(self) -> torch.autocast:
        """Of every loss; it does nothing in fp32."""
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def telling(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """A discriminator's loss."""
        with self.autocast():
            return 0.5 * (self.judged(discriminator(real), True) + self.judged(discriminator(fake), False))

    def judged(self, logits: Tensor, real: bool) -> Tensor:
        """The adversarial loss."""
        target = torch.full_like(logits, float(real))
        least_squares = self.recipe.adversarial_loss == "least_squares"
        return (F.mse_loss if least_squares else F.binary_cross_entropy_with_logits)(logits, target)

    @staticmethod
    def learns(networks: Iterable[nn.Module], learns: bool) -> None:
        """junyanz's set_requires_grad."""
        for network in networks:
            network.requires_grad_(learns)

    @staticmethod
    def update(optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
        """The gradients of the losses, and the optimizer after them."""
        optimizer.zero_grad()
        for loss in losses:
            loss.backward()
        optimizer.step()


def our_step(job: Any, batch: Any) -> tuple[State, Callable[[], Tensor]]:
    """The engine's."""
    state = State(job, ALONE)
    for network in state.networks.values():
        network.train()
    own = replace(batch, a=batch.a.to(state.dtype), b=batch.b.to(state.dtype))
    return state, lambda: state.step([replace(own)], learning_rate=RATE)


def without_dropout(networks: Networks) -> None:
    """Dropout is random: it is left out where losses are compared."""
    for module in (module for network in networks.values() for module in network.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def check(job: Any, plain: Any, batch: Any) -> None:
    """From the same weights, the losses of the first step must agree; pix2pix's peer has its D updated before G's."""
    state, ours = our_step(job, batch)
    theirs = Plain(plain, batch, torch.channels_last, compiled=False)
    for name, network in theirs.networks.items():
        network.load_state_dict(state.networks[name].state_dict())
    without_dropout(state.networks)
    without_dropout(theirs.networks)
    for got, want in zip(ours().tolist(), (loss.item() for loss in theirs()), strict=True):
        limit = 0.02 if job.recipe.precision == "fp32" else 0.1
        assert abs(got - want) <= limit * abs(want), f"losses of {job.task.name}: {got}, in plain torch {want}"


def time_steps(task: str, arguments: argparse.Namespace) -> None:
    """Check, time and print one task's step; save it on request."""
    changes = {"image_size": arguments.size, "load_size": arguments.size, "batch_size": 1}
    job, plain = (job_of(task, RECIPE, fused=on, precision=arguments.precision, **changes) for on in (True, False))
    torch.manual_seed(0)
    batch = job.warm_up_batch(ALONE, DEVICE, torch.float32)
    check(job, plain, batch)
    contestants: dict[str, Callable[[], object]] = {OURS: our_step(job, batch)[1]}
    contestants |= {name: Plain(plain, batch, layout, False) for name, layout in LAYOUTS.items()}
    if arguments.compile:
        contestants["torch.compile"] = Plain(plain, batch, torch.contiguous_format, True)
    times = harness.time_rounds(
        contestants, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=2, ahead=False
    )
    shape = " x ".join(map(str, batch.a.shape))
    case = f"{task} training step, {shape}, {arguments.precision}, {DEVICE.type}"
    print(harness.as_text(case, times, OURS), flush=True)
    products = {who: products_s(contestants[who]) for who in (OURS, *LAYOUTS)} if DEVICE.type == "cpu" else {}
    for who, seconds in products.items():
        print(f"  {who} is {1e3 * seconds:.1f} ms in convolutions")
    paddings = {OURS: products_s(contestants[OURS], PADDINGS)} if DEVICE.type == "cpu" else {}
    for who, seconds in paddings.items():
        print(f"  {who} is {1e3 * seconds:.1f} ms in reflection padding")
    if arguments.save:
        harness.save("gan_step", case, times, OURS, products_s=products, paddings_s=paddings)


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 256 for pix2pix")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if DEVICE.type == "cuda" else "fp32")
    parser.add_argument("--rounds", type=int, default=31 if DEVICE.type == "cuda" else 5)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes minutes")
    parser.add_argument("--save", action="store_true", help="append to bench/results/gan_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for task in arguments.tasks:
        time_steps(task, arguments)


if __name__ == "__main__":
    main()
