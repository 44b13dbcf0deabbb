"""Pictures for training and evaluation: one interface to every reader.

    folder = ImageFolder(root, num_classes=1000)
    reader = make_reader(default_kind(), folder, image_size=224, ...)
    for batch in prefetch(reader.train(first_step=0), device, torch.bfloat16, mean, std): ...

A reader has `train(first_step)`, endless; `evaluate()`, each picture once over all ranks; `close()`; `name`.
Both yield (pictures uint8 [b, S, S, 3], labels int64 [b]). `sampling` has the order of the pictures.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

from airank_fast.data.images import digits
from airank_fast.data.images.batches import ImageBatch, Normalise, as_pictures, prefetch
from airank_fast.data.images.image_folder import ImageFolder, Split, find_corrupt, left_out
from airank_fast.data.images.place import Place
from airank_fast.data.images.synthetic import SyntheticReader
from airank_fast.data.sampling import Crop, TrainStream
from airank_fast.errors import UserError

__all__ = [
    "ImageBatch",
    "ImageFolder",
    "Normalise",
    "Split",
    "as_pictures",
    "default_kind",
    "digits",
    "find_corrupt",
    "left_out",
    "make_reader",
    "prefetch",
]

CROPS = ("random_resized", "shift")
KINDS = ("dali", "torch", "synthetic")


def make_reader(
    kind: str,
    folder: ImageFolder | None,
    *,
    image_size: int,
    train_crop: str,
    eval_resize: int,
    batch_size_local: int,
    global_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 1,
    flip: bool = True,
    min_area: float = 0.08,
    eval_batch_size: int | None = None,
    num_classes: int = 1000,
    num_eval_samples: int = 0,
):
    """A reader of a folder or of synthetic pictures.

    kind: one of KINDS.
    image_size: S, pixels. train_crop: "random_resized" (area min_area ... 1 of the picture, aspect 3/4 ...
    4/3) or "shift" (a random S x S window of the picture with its shorter side resized to eval_resize). flip:
    mirror half of the training pictures. Evaluation: shorter side resized to eval_resize, centre S x S.
    batch_size_local: pictures per yielded training batch; global_batch_size: per optimizer step over all
    ranks; their ratio over world_size is the number of accumulated batches. eval_batch_size: default
    batch_size_local. num_workers: DALI's threads or torch's worker processes of this rank.
    num_classes, num_eval_samples: of the synthetic reader only, which needs no folder.
    UserError: DALI requested but not installed; more pictures in a global batch than in the training set.
    """
    assert train_crop in CROPS, train_crop
    assert image_size <= eval_resize, (image_size, eval_resize)
    device = torch.device(device)
    if kind not in KINDS:
        raise UserError(f"reader: must be one of {', '.join(KINDS)}, got {kind}")
    if kind == "dali" and not has_dali():
        raise UserError(
            "reader: must have DALI for --reader dali, got none "
            "(pip install nvidia-dali-cuda130, or use --reader torch)"
        )
    shard = {
        "batch_size_local": batch_size_local,
        "global_batch_size": global_batch_size,
        "rank": rank,
        "world_size": world_size,
    }
    eval_batch_size = eval_batch_size or batch_size_local
    if kind == "synthetic":
        return SyntheticReader(
            image_size=image_size,
            seed=seed,
            device=device,
            num_classes=num_classes,
            num_eval_samples=num_eval_samples,
            eval_batch_size=eval_batch_size,
            **shard,
        )

    assert folder is not None, kind
    stream = TrainStream(len(folder.train), seed, **shard)
    crop = Crop(image_size, train_crop, eval_resize, min_area, flip)
    place = Place(eval_batch_size, rank, world_size, device, num_workers)
    if kind == "dali":
        from airank_fast.data.images.dali_reader import DaliReader

        return DaliReader(folder, stream, crop, place)
    from airank_fast.data.images.torch_reader import TorchReader

    return TorchReader(folder, stream, crop, place)


def default_kind() -> Literal["dali", "torch"]:
    """The kind of reader where none is requested: DALI where it is installed, else torch."""
    return "dali" if has_dali() else "torch"


def has_dali() -> bool:
    """Whether DALI is installed; does not import it."""
    return bool(importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"))
