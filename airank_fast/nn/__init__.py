"""Drop-in modules: the same arguments, parameters and state-dict keys as torch's, with faster paths inside."""

from airank_fast.nn.batch_norm_act import BatchNormAct2d, FrozenBatchNormAct2d, freeze_batch_norm
from airank_fast.nn.bias_gelu import LinearGELU
from airank_fast.nn.conv import Conv2d, ConvTranspose2d
from airank_fast.nn.cross_entropy import CrossEntropyLoss, cross_entropy
from airank_fast.nn.dropout_add_layer_norm import DropoutAddLayerNorm
from airank_fast.nn.fm import FactorizationMachine
from airank_fast.nn.instance_norm_act import InstanceNormAct2d
from airank_fast.nn.layer_norm import FusedLayerNorm, LayerNorm
from airank_fast.nn.packed_attention import PackedSequences, packed_attention
from airank_fast.nn.patch_conv import PatchConv2d
from airank_fast.nn.pointwise_conv import PointwiseConv2d
from airank_fast.nn.sparse_table import SparseTable, SparseTableBag
from airank_fast.nn.temporal_shift import TemporalShift
from airank_fast.nn.upsample_add_act import UpsampleAddAct
from airank_fast.nn.upsample_cross_entropy import UpsampleCrossEntropyLoss
from airank_fast.ops import (
    batched_nms,
    decode_boxes,
    encode_boxes,
    mask_targets,
    match_boxes,
    multiscale_roi_align,
    nms,
    nms_padded,
    roi_align,
    upsample_argmax,
    upsample_confusion,
)

__all__ = [
    "BatchNormAct2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DropoutAddLayerNorm",
    "FactorizationMachine",
    "FrozenBatchNormAct2d",
    "FusedLayerNorm",
    "InstanceNormAct2d",
    "LayerNorm",
    "LinearGELU",
    "PackedSequences",
    "PatchConv2d",
    "PointwiseConv2d",
    "SparseTable",
    "SparseTableBag",
    "TemporalShift",
    "UpsampleAddAct",
    "UpsampleCrossEntropyLoss",
    "batched_nms",
    "cross_entropy",
    "decode_boxes",
    "encode_boxes",
    "freeze_batch_norm",
    "mask_targets",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "nms_padded",
    "packed_attention",
    "roi_align",
    "upsample_argmax",
    "upsample_confusion",
]
