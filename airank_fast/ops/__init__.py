"""The ops, one a file: schema, reference, fake, public function; the extension module adds the kernels.

torch's dispatcher is the only switch: where the extension is missing, or has no kernel for a device, the same name
runs the reference.
"""

import importlib.util
import warnings

from airank_fast.ops import direct_conv, winograd
from airank_fast.ops.adagrad import adagrad_
from airank_fast.ops.adam import adam_
from airank_fast.ops.batch_norm_act import (
    batch_norm_act,
    batch_norm_finish_,
    batch_norm_moments,
    batch_norm_statistics_,
)
from airank_fast.ops.bias_gelu import bias_gelu
from airank_fast.ops.box_coding import decode_boxes, encode_boxes
from airank_fast.ops.cross_entropy import cross_entropy
from airank_fast.ops.dropout_add_layer_norm import dropout_add_layer_norm
from airank_fast.ops.fm import fm
from airank_fast.ops.ftrl import ftrl_
from airank_fast.ops.global_norm import global_norm
from airank_fast.ops.instance_norm_act import instance_norm_act
from airank_fast.ops.lamb import lamb_
from airank_fast.ops.lars import lars_
from airank_fast.ops.layer_norm import layer_norm
from airank_fast.ops.mask_targets import mask_targets
from airank_fast.ops.match_boxes import match_boxes
from airank_fast.ops.nms import batched_nms, nms, nms_padded
from airank_fast.ops.roi_align import multiscale_roi_align, roi_align
from airank_fast.ops.sgd import sgd_
from airank_fast.ops.skip_gram import skip_gram
from airank_fast.ops.sparse_table import sparse_table_bag, sparse_table_lookup
from airank_fast.ops.sparse_table_update import sparse_table_update_
from airank_fast.ops.upsample_add_act import upsample_add_act
from airank_fast.ops.upsample_cross_entropy import upsample_argmax, upsample_confusion, upsample_cross_entropy

__all__ = [
    "adagrad_",
    "adam_",
    "batch_norm_act",
    "batch_norm_finish_",
    "batch_norm_moments",
    "batch_norm_statistics_",
    "batched_nms",
    "bias_gelu",
    "cross_entropy",
    "decode_boxes",
    "direct_conv",
    "dropout_add_layer_norm",
    "encode_boxes",
    "fm",
    "ftrl_",
    "global_norm",
    "instance_norm_act",
    "lamb_",
    "lars_",
    "layer_norm",
    "mask_targets",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "nms_padded",
    "roi_align",
    "sgd_",
    "skip_gram",
    "sparse_table_bag",
    "sparse_table_lookup",
    "sparse_table_update_",
    "upsample_add_act",
    "upsample_argmax",
    "upsample_confusion",
    "upsample_cross_entropy",
    "winograd",
]

if importlib.util.find_spec("airank_fast._C") is not None:
    try:
        import airank_fast._C  # noqa: F401  (registers its kernels as it loads)
    except ImportError as error:
        warnings.warn(f"airank_fast: no kernels could be loaded, reference ops run: {error}", stacklevel=2)
