"""Padded batches of BERT to their real tokens, one sequence behind the other, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.errors import UserError

IGNORED_LABEL = -100


def real_tokens(shape: torch.Size, attention_mask: Tensor | None) -> Tensor | None:
    """Where tokens are real; None for everywhere. At least one of each row is."""
    if attention_mask is None:
        return None
    if attention_mask.shape != shape:
        raise UserError(
            f"bert: attention_mask must have the shape of input_ids, {list(shape)}, got {list(attention_mask.shape)}"
        )
    real = attention_mask.bool()
    first = torch.arange(shape[1], device=real.device) == 0
    return real | (first & ~real.any(1, keepdim=True))


def at_real_tokens(labels: Tensor, real: Tensor | None, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The labels that are not ignored, and their places among the real tokens."""
    if labels.shape != shape:
        raise UserError(f"bert: labels must have the shape of input_ids, {list(shape)}, got {list(labels.shape)}")
    if real is not None and bool(((labels != IGNORED_LABEL) & ~real).any()):
        raise UserError(f"bert: labels must be {IGNORED_LABEL} where attention_mask is 0, got others")
    labels = packed(labels, real)
    positions = (labels != IGNORED_LABEL).nonzero()[:, 0]
    return labels[positions], positions


def packed(tensor: Tensor, real: Tensor | None) -> Tensor:
    """[B, L, ...] to the real tokens, [T, ...]."""
    return tensor.flatten(0, 1) if real is None else tensor[real]


def padded(tensor: Tensor, real: Tensor | None, shape: torch.Size) -> Tensor:
    """[T, width] to [B, L, width], 0 at padding."""
    if real is None:
        return tensor.unflatten(0, shape)
    return tensor.new_zeros(*shape, tensor.shape[-1]).masked_scatter(real[..., None], tensor)
