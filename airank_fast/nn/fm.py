"""The second-order term of a factorization machine as a module, over the fused op."""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast import ops
from airank_fast.nn.tracing import one_call


class FactorizationMachine(nn.Module):
    """The sum over all pairs of fields of their embeddings' dot product; without parameters. See ``ops.fm``.

    Shapes: input ``[..., fields, dim]``, output ``[...]``, float32, or float64 of float64. DeepCTR-Torch's FM and
    torchrec's FactorizationMachine return the same as ``[b, 1]``.
    """

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        return ops.fm(input)
