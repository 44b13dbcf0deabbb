"""FID, the Fréchet Inception Distance, as clean-fid computes it, with the user's own file of the Inception network.

The file is NVIDIA's inception-2015-12-05.pt, TorchScript, which stylegan2-ada and clean-fid download:
https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt. Its weights are under
a licence of their own and are not carried. Pictures are compared as they are saved, in 8 bits.

M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017; G. Parmar,
R. Zhang and J. Zhu, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.data.images.domain_reader import levels
from airank_fast.errors import UserError, require
from airank_fast.quality.sums import Sums

SIDE = 299  # pixels of a side, of the pictures that Inception sees
LEAST = 2048  # pictures of each kind, below which a covariance of 2,048 features has not full rank
_FORM = "NVIDIA's inception-2015-12-05.pt, TorchScript"


def resized(pictures: Tensor) -> Tensor:
    """uint8 [N, C, H, W] as clean-fid resizes them: bicubic, antialiased, not rounded, float32 [N, 3, 299, 299].

    Grey pictures get three equal channels.
    """
    large = F.interpolate(pictures.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    return large.expand(-1, 3, -1, -1)


class Inception:
    """The features of pictures by a file of the network, on a device. num_features: 2,048 of NVIDIA's file.

    UserError for a file that is missing, no TorchScript, or of another network.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        require(path.is_file(), f"--inception {path}", _FORM, "no file")
        try:
            self._layers = torch.jit.load(str(path), map_location=device).eval().layers
            with torch.inference_mode():
                self.num_features = self(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8, device=device)).shape[1]
        except (RuntimeError, AttributeError, IndexError) as error:
            lines = str(error).strip().splitlines()
            raise UserError(f"--inception {path}: must be {_FORM}, got {lines[-1] if lines else error!r}") from None

    def __call__(self, pictures: Tensor) -> Tensor:
        """The features of pictures uint8 [N, C, H, W]: float64 [N, num_features]."""
        return self._layers((resized(pictures) - 128) / 128).flatten(1).double()


class Fid(Sums):
    """fid: the distance of the made pictures of B to the batch's `b`.

    The sums are the number, the sum and the outer products of the features, in float64: of real and of made pictures.
    made: of the outputs, the pictures of B, -1 ... 1. The batch has b and counts (`PictureBatch`).
    """

    def __init__(self, inception: Inception, made: Callable[[Any], Tensor] = lambda outputs: outputs) -> None:
        super().__init__(2, 1 + inception.num_features * (1 + inception.num_features), dtype=torch.float64)
        self._inception, self._made = inception, made

    def amounts(self, outputs: Any, batch: Any) -> Tensor:
        """A batch's part of the sums, [2, 1 + d + d * d]."""
        sides = zip((batch.b, self._made(outputs)), (batch.counts[:, 1], batch.counts[:, 0]), strict=True)
        return torch.stack([feature_sums(self._inception(levels(pictures)), counts) for pictures, counts in sides])

    def compute(self, total: Tensor) -> dict[str, float]:
        """UserError for fewer than two pictures."""
        return {"fid": frechet_distance(*moments(total[0]), *moments(total[1]))}


def feature_sums(features: Tensor, counts: Tensor) -> Tensor:
    """The number, sum and outer products of the rows of float64 [N, d] that count: float64 [1 + d + d * d]."""
    counted = features * counts[:, None]
    return torch.cat([counts.sum(dtype=torch.float64)[None], counted.sum(0), (counted.T @ counted).flatten()])


def moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [d] and the unbiased covariance [d, d] of `feature_sums`. UserError for fewer than two pictures."""
    number, num_features = sums[0].item(), round((len(sums) - 0.75) ** 0.5 - 0.5)
    require(number >= 2, "evaluation set", "one with two pictures or more, for FID", f"{number:.0f}")
    mean = sums[1 : 1 + num_features] / number
    products = sums[1 + num_features :].view(num_features, num_features)
    return mean, (products - number * torch.outer(mean, mean)) / (number - 1)


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """|mean_1 - mean_2|^2 + trace(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), of float64 means [d] and covariances [d, d].

    The trace of the root is that of (C_1^(1/2) C_2 C_1^(1/2))^(1/2), which is symmetric: so its eigenvalues are real
    with covariances of any rank, where scipy's sqrtm of C_1 C_2 needs an offset or becomes complex.
    """
    values, vectors = torch.linalg.eigh(covariance_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    of_product = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * of_product
    return max(0.0, distance.item())


def few_pictures(number: int) -> str | None:
    """The line for the user where there are too few pictures for a FID that others can be compared with."""
    what = (
        f"data: FID is of {number} pictures; below {LEAST} it is too large, and no other number can be compared with it"
    )
    return what if number < LEAST else None
