"""The order of samples and the crop windows of pictures: pure functions of (seed, position in the stream).

Training reads an endless stream: one permutation of the training set per epoch. Step k takes the stream positions
[k*B, (k+1)*B) of a global batch B, and rank r of R takes rows [r*B/R, (r+1)*B/R) of them. The random numbers of a
picture depend on its position alone, not on the number of ranks, the reader or earlier steps: resuming means starting
at step k.

Only Philox's raw 64-bit words are used, because NumPy keeps those the same in every version, which it does not promise
for `permutation` or `uniform`. Window arithmetic is in float32, operation by operation, so that the same formula in a
DALI graph gives the same windows.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from airank_fast.errors import UserError

NUM_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
ATTEMPT_LIMITS = np.array([1] * (NUM_ATTEMPTS - 1) + [np.inf], np.float32)  # the last attempt is always taken
NUM_DRAWS = 24  # uniforms per picture: 10 areas, 10 aspect ratios, y, x, flip, one spare
_DRAW_Y, _DRAW_X, _DRAW_FLIP, _DRAW_SPARE = 20, 21, 22, 23
_MAX_RATIO = 4 / 3  # of the sides, either way
_WORDS_PER_COUNT = 4  # Philox 4x64 yields four words per counter value


@enum.unique
class Purpose(enum.IntEnum):
    """What random numbers are for: the second word of Philox's key, so that no two purposes share numbers."""

    ORDER = 0  # of a training set's samples in an epoch
    DRAWS = 1  # a picture's window and flip
    PICTURES = 2  # pixels of synthetic pictures
    SHARDS = 3  # the order of shards in an epoch
    MASKS = 4  # of tokens, in text that is masked as it is read
    SHUFFLE = 5  # of a block's samples, when a corpus is prepared
    WORDS = 6  # of a sentence, in sub-sampling
    SCENES = 7  # places, sizes and noise of a composed picture
    COLOURS = 8  # a picture's window and colours, where its draws are too few
    MIXUP = 9  # the shares of two pictures that are mixed
    SIZES = 10  # of the images of some steps
    POOL = 11  # which pictures are exchanged with those of an image pool


class Crop(NamedTuple):
    """How pictures are cropped; see `make_reader`."""

    image_size: int
    train_crop: str
    eval_resize: int
    min_area: float
    flip: bool


class Request(NamedTuple):
    """One local batch, as a reader gets it."""

    indices: np.ndarray  # int64 [b], into the split's files
    draws: np.ndarray | None  # float64 [b, NUM_DRAWS] in [0, 1); None in evaluation
    position: int = 0  # in the training stream, of the first sample
    step: int = 0  # of the optimizer, to which the batch belongs


def philox(seed: int, purpose: Purpose, counter: tuple[int, int]) -> np.random.Philox:
    """Random words addressed by (seed, purpose, counter); four 64-bit words per step of the first counter."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, purpose], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([*counter, 0, 0], dtype=np.uint64))


def permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of epoch `epoch` (0-based): int64 [num_samples]."""
    keys = philox(seed, Purpose.ORDER, (0, epoch)).random_raw(num_samples)
    return np.argsort(keys, kind="stable")


def is_held_out(content: bytes, one_in: int) -> bool:
    """Whether a thing with this content is held out, as about one in `one_in` is; no other changes sides with it."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "little") % one_in == 0


def draws(seed: int, first_position: int, count: int) -> np.ndarray:
    """Uniforms in [0, 1) of `count` stream positions: float64 [count, NUM_DRAWS]."""
    first_count = first_position * (NUM_DRAWS // _WORDS_PER_COUNT)
    raw = philox(seed, Purpose.DRAWS, (first_count, 0)).random_raw(count * NUM_DRAWS)
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(count, NUM_DRAWS)


class TrainStream:
    """The part of the training stream that one rank reads, in local batches.

    A global batch may be several local batches a rank (gradient accumulation): global_batch_size must be a
    multiple of batch_size_local * world_size.
    """

    def __init__(
        self, num_samples: int, seed: int, *, batch_size_local: int, global_batch_size: int, rank: int, world_size: int
    ):
        per_pass = batch_size_local * world_size
        if batch_size_local < 1 or global_batch_size % per_pass:
            raise UserError(
                f"global batch size: must be a multiple of {world_size} ranks x {batch_size_local} "
                f"samples, got {global_batch_size}"
            )
        if global_batch_size > num_samples:
            raise UserError(
                f"batch size: must be at most the {num_samples} training samples, "
                f"got a global batch of {global_batch_size}"
            )
        self.num_samples, self.seed = num_samples, seed
        self.batch_size_local, self.global_batch_size = batch_size_local, global_batch_size
        self._first_row = rank * (global_batch_size // world_size)
        self.batches_per_step = global_batch_size // per_pass
        self._orders: dict[int, np.ndarray] = {}

    def indices(self, first_position: int, count: int) -> np.ndarray:
        """Pictures at `count` stream positions: int64 [count]."""
        out = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, offset = divmod(first_position + done, self.num_samples)
            part = self._part(epoch, offset, count - done)
            out[done : done + len(part)] = part
            done += len(part)
        return out

    def _part(self, epoch: int, offset: int, count: int) -> np.ndarray:
        """The samples of an epoch from `offset` on: at least one, at most `count`."""
        return self._order(epoch)[offset : offset + count]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = permutation(self.num_samples, self.seed, epoch)
        return self._orders[epoch]

    def positions(self, first_step: int) -> Iterator[int]:
        """The stream position of the first sample of each local batch, from global step `first_step` on, endless."""
        for step in count(first_step):
            for part in range(self.batches_per_step):
                yield step * self.global_batch_size + self._first_row + part * self.batch_size_local

    def requests(self, first_step: int) -> Iterator[Request]:
        """Endless local batches, from global step `first_step` (0-based) on."""
        for position in self.positions(first_step):
            number, step = self.batch_size_local, position // self.global_batch_size
            yield Request(self.indices(position, number), draws(self.seed, position, number), position, step)


class ShardStream(TrainStream):
    """A TrainStream over shards of these sizes, which are numbered through, for data sets larger than memory.

    An epoch takes the shards in random order, and the samples of each in random order before the next one's. So that
    few shards are read at a time, and few permutations are in memory.
    """

    def __init__(self, sizes: np.ndarray, seed: int, **batches: int) -> None:
        super().__init__(int(sizes.sum()), seed, **batches)
        self._sizes, self._first = sizes, sizes.cumsum() - sizes
        self._shards: tuple[int, np.ndarray, np.ndarray] | None = None
        self._within: tuple[tuple[int, int], np.ndarray] | None = None

    def _part(self, epoch: int, offset: int, count: int) -> np.ndarray:
        if self._shards is None or self._shards[0] != epoch:
            keys = philox(self.seed, Purpose.SHARDS, (0, epoch)).random_raw(len(self._sizes))
            order = np.argsort(keys, kind="stable")
            self._shards = epoch, order, self._sizes[order].cumsum()
        _, order, ends = self._shards
        place = int(np.searchsorted(ends, offset, side="right"))
        shard = int(order[place])
        start = offset - int(ends[place] - self._sizes[shard])
        return self._first[shard] + self._samples(epoch, shard)[start : start + count]

    def _samples(self, epoch: int, shard: int) -> np.ndarray:
        """The order of a shard's samples: int64."""
        if self._within is None or self._within[0] != (epoch, shard):
            words = philox(self.seed, Purpose.ORDER, (shard << 32, epoch)).random_raw(int(self._sizes[shard]))
            self._within = (epoch, shard), np.argsort(words, kind="stable")
        return self._within[1]


def eval_batches(num_samples: int, batch_size: int, rank: int, world_size: int) -> Iterator[np.ndarray]:
    """This rank's share of 0 ... num_samples-1, in order, int64 [<= batch_size]; shares are disjoint."""
    first, last = rank * num_samples // world_size, (rank + 1) * num_samples // world_size
    for start in range(first, last, batch_size):
        yield np.arange(start, min(start + batch_size, last))


def crop_factors(u: np.ndarray, min_area: float) -> np.ndarray:
    """Height and width of the random-resized-crop attempts as multiples of sqrt(picture area).

    u: draws [b, NUM_DRAWS]. Returns float32 [b, 2, NUM_ATTEMPTS]. As torchvision: the area is uniform in
    [min_area, 1] of the picture, the logarithm of the aspect ratio (width / height) uniform from 3/4 to 4/3.
    """
    area = min_area + (1 - min_area) * u[:, :NUM_ATTEMPTS]
    log_ratio = (2 * u[:, NUM_ATTEMPTS : 2 * NUM_ATTEMPTS] - 1) * np.log(_MAX_RATIO)
    half = np.exp(0.5 * log_ratio)
    side = np.sqrt(area)
    return np.stack([side / half, side * half], axis=1).astype(np.float32)


def offset_draws(u: np.ndarray) -> np.ndarray:
    """Position of the window, (y, x) in [0, 1) of the range it can move in: float32 [b, 2], of 22 bits."""
    return (np.floor(u[:, _DRAW_Y : _DRAW_X + 1] * 2.0**22) * 2.0**-22).astype(np.float32)


def flip_draws(u: np.ndarray) -> np.ndarray:
    """True where the picture is mirrored, half of the time: bool [b]."""
    return u[:, _DRAW_FLIP] < 0.5


def spare_draws(u: np.ndarray) -> np.ndarray:
    """Uniforms that nothing above takes: float64 [b]."""
    return u[:, _DRAW_SPARE]


def random_resized_window(
    height: int, width: int, factors: np.ndarray, offset: np.ndarray
) -> tuple[int, int, int, int]:
    """The window of the first attempt that fits into the picture, else of the last one, cut to the picture.

    factors: of one picture, [2, NUM_ATTEMPTS]; offset: (y, x). Returns integers (y, x, height, width). Where no
    attempt fits, as in a very long picture, torchvision takes a centred window instead.
    """
    size = np.array([height, width], np.float32)
    side = np.sqrt(size[0] * size[1])
    fits = (factors * (side / size)[:, None]).max(0) <= ATTEMPT_LIMITS
    shape = np.floor(factors[:, fits.argmax()] * side + np.float32(0.5))
    shape = np.maximum(np.float32(1), np.minimum(size, shape))
    return _whole(_placed(size, shape, offset), shape)


def square_window(
    height: int, width: int, eval_resize: int, image_size: int, offset: np.ndarray | None
) -> tuple[int, int, int, int]:
    """An image_size square of the picture resized to a shorter side of eval_resize, in whole source pixels.

    offset None: the centre (evaluation). Else (y, x) in [0, 1) picks a place anywhere in the picture ('shift').
    Returns (y, x, height, width), height == width. Its edges lie within half a source pixel of those that resizing
    first would give.
    """
    size = np.array([height, width], np.float32)
    side = np.floor(np.float32(image_size) * size.min() / np.float32(eval_resize) + np.float32(0.5))
    shape = np.maximum(np.float32(1), np.stack([side, side]))
    start = np.floor((size - shape) * np.float32(0.5)) if offset is None else _placed(size, shape, offset)
    return _whole(start, shape)


def _placed(size: np.ndarray, shape: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """offset < 1 has 22 bits, so the product rounds to less than the number of places."""
    return np.floor(offset * (size - shape + np.float32(1)))


def _whole(start: np.ndarray, shape: np.ndarray) -> tuple[int, int, int, int]:
    return int(start[0]), int(start[1]), int(shape[0]), int(shape[1])
