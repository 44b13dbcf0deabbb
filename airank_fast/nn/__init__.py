"""Drop-in modules: the same arguments, parameters and state-dict keys as torch's, with faster paths inside."""

from airank_fast.nn.packed_attention import PackedSequences, packed_attention
from airank_fast.nn.pointwise_conv import PointwiseConv2d

__all__ = ["PackedSequences", "PointwiseConv2d", "packed_attention"]
