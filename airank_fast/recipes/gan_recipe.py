"""What the recipes of pix2pix and CycleGAN share: hyper-parameters, options and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from airank_fast.errors import require
from airank_fast.recipes.options import CommonRecipe, RunOptions, check_betas, check_counts


@dataclass(frozen=True, kw_only=True)
class GanRecipe(CommonRecipe):
    """See CommonRecipe."""

    image_size: int
    """Side in pixels of the pictures that networks see."""
    load_size: int
    """Training pictures are scaled to this side, of which a random window of --image-size is taken."""
    flip: bool
    """Mirror half of the training pictures."""
    channels: int
    """Channels of a picture: 3, or 1 for grey ones."""
    width: int
    """Channels of a generator's first convolution."""
    discriminator_width: int
    """Channels of a discriminator's first convolution."""
    discriminator_layers: int
    """Convolutions of stride 2 in a discriminator; with 3 a patch has 70 x 70 pixels."""
    dropout: float
    """Share of the features that is dropped in a generator, in its middle layers."""
    adversarial_loss: Literal["bce", "least_squares"]
    """Loss of a discriminator: cross entropy, or the square distance from 1 or 0 (LSGAN)."""
    pool_size: int
    """Made pictures that a discriminator may see again; 0: it sees the latest alone."""
    init_checkpoint: str | None = None
    """Begin with these weights: a directory with latest_net_G.pth and so on, or a checkpoint of another run.
    Discriminators may be missing."""
    epochs: int
    """Train for at most N epochs."""
    constant_epochs: float
    """Epochs at the whole learning rate, which then falls linearly to 0 at the end."""
    beta1: float = 0.5
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    eval_every: int
    """Evaluate every N epochs."""


CITYSCAPES: dict[str, Any] = {
    "name": "cityscapes",
    "image_size": 256,
    "load_size": 286,
    "flip": True,
    "channels": 3,
    "width": 64,
    "discriminator_width": 64,
    "discriminator_layers": 3,
    "epochs": 200,
    "constant_epochs": 100.0,
    "batch_size": 1,
    "learning_rate": 2e-4,
    "eval_every": 10,
    "eval_batch_size": 10,
    "target": None,
}
"""What the published recipes of both have in common: junyanz's defaults, and PaddleGAN's for Cityscapes."""


@dataclass(frozen=True, kw_only=True)
class GanOptions(RunOptions):
    """See RunOptions."""

    inception: Path | None = None
    """Evaluate FID too, with the features of this file: inception-2015-12-05.pt in TorchScript."""


def check(recipe: GanRecipe, options: GanOptions, multiple: int) -> None:
    """UserError for a value out of range. multiple: of which a picture's side must be one."""
    counts = ("width", "discriminator_width", "discriminator_layers", "epochs", "eval_every")
    check_counts(recipe, counts)
    require(recipe.channels in (1, 3), "--channels", "1 or 3", recipe.channels)
    layers, side = recipe.discriminator_layers, recipe.image_size
    least = 3 * 2**layers  # its last normalisation has 2 x 2 pixels then
    what = f"a multiple of {multiple}, and at least {least} for {layers} --discriminator-layers"
    require(side % multiple == 0 and side >= least, "--image-size", what, side)
    require(recipe.load_size >= side, "--load-size", f"at least the {side} of --image-size", recipe.load_size)
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    require(recipe.pool_size >= 0, "--pool-size", "at least 0", recipe.pool_size)
    constant = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.constant_epochs <= recipe.epochs, "--constant-epochs", constant, recipe.constant_epochs)
    check_betas(recipe)
    has_names = recipe.target is None or isinstance(recipe.target, dict)
    require(has_names, "--target", "a metric and its value, such as l1=0.08: no text states one", recipe.target)
