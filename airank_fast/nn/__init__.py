"""Drop-in modules: the same arguments, parameters and state-dict keys as torch's, with faster paths inside."""

from airank_fast.nn.dropout_add_layer_norm import DropoutAddLayerNorm
from airank_fast.nn.layer_norm import LayerNorm
from airank_fast.nn.pointwise_conv import PointwiseConv2d

__all__ = ["DropoutAddLayerNorm", "LayerNorm", "PointwiseConv2d"]
