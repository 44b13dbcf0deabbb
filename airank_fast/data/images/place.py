"""Where a reader of an image folder runs, and its share of the validation set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from airank_fast.data.sampling import Request, eval_batches


@dataclass(frozen=True)
class Place:
    """The rank, device and workers of a reader; see `make_reader`. eval_batch_size: pictures of this rank at a time."""

    eval_batch_size: int
    rank: int
    world_size: int
    device: torch.device
    num_workers: int

    def eval_requests(self, num_samples: int) -> Iterator[Request]:
        """This rank's part of `num_samples` validation pictures, in order, the last batch smaller."""
        for indices in eval_batches(num_samples, self.eval_batch_size, self.rank, self.world_size):
            yield Request(indices, None)
