"""Parameters that are sharded over ranks (DTensors of torch's fully_shard): local shards and norms of whole tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Layout:
    """How DTensors are distributed over a mesh of ranks."""

    mesh: object
    placements: tuple

    @property
    def sharded(self) -> tuple[int, ...]:
        """The dimensions of the mesh over which the tensor is sharded."""
        return tuple(i for i, placement in enumerate(self.placements) if not placement.is_replicate())

    def local(self, tensor: Tensor) -> Tensor:
        """This rank's shard; a gradient in another layout is redistributed first."""
        if tuple(tensor.placements) != self.placements:
            tensor = tensor.redistribute(placements=self.placements)
        return tensor.to_local()

    def norms(self, shards: Sequence[Tensor]) -> Tensor:
        """The 2-norms of the whole tensors, a float64 vector: one collective for all of them, without the host."""
        norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in shards]
        return self.whole_norms(torch.stack(norms).double())

    def whole_norms(self, norms: Tensor) -> Tensor:
        """The norms of whole tensors from those of this rank's shards, float64."""
        squares = norms.square()
        for dimension in self.sharded:
            distributed.all_reduce(squares, group=self.mesh.get_group(dimension))
        return squares.sqrt()


def layout_of(param: Tensor) -> Layout | None:
    """The layout of a DTensor; None for a plain tensor."""
    placements = getattr(param, "placements", None)
    return None if placements is None else Layout(param.device_mesh, tuple(placements))


def is_flattened(param: Tensor) -> bool:
    """Whether FullyShardedDataParallel has flattened the parameter, whose norm is then of no tensor of the model."""
    flat = getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)
    return flat and distributed.is_initialized() and distributed.get_world_size() > 1
