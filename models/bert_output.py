"""The output and the configuration of BertForPreTraining, with the interface of Hugging Face's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class BertForPreTrainingOutput:
    """The output of a call; read as Hugging Face's: by attribute, by name, or by number among the values not None.

    prediction_logits are [number of masked positions, vocabulary] where labels are given.
    """

    loss: Tensor | None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None

    def items(self) -> list[tuple[str, Any]]:
        """Names and values that are not None."""
        return [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]

    def keys(self) -> list[str]:
        """The names of the values."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """The values, in order."""
        return list(self.to_tuple())

    def to_tuple(self) -> tuple[Any, ...]:
        """The values, in order."""
        return tuple(value for _, value in self.items())

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())


torch.export.register_dataclass(BertForPreTrainingOutput)


class Config(dict):
    """The network's arguments, by key and as attributes, with those that transformers.Trainer reads."""

    model_type = "bert"
    use_cache = False

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"config: must be one of {', '.join(self)}, got {name}") from None

    def to_dict(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)

    def to_json_string(self) -> str:
        """As JSON, for the logs of other trainers."""
        return json.dumps(self, indent=2)
