"""Drop-in modules: the same arguments, parameters and state-dict keys as torch's, with faster paths inside."""

from airank_fast.nn.pointwise_conv import PointwiseConv2d

__all__ = ["PointwiseConv2d"]
