"""Names the vector instructions that the CPU kernels of this process may use."""

from __future__ import annotations

import os

import torch

WITH_BF16 = ("AVX512_BF16", "AMX")
"""Names of sets that multiply bfloat16."""


def instruction_set() -> str:
    """The latest vector instructions of the processor that kernels may use: AVX2, AVX512, AVX512_BF16, AMX, ...

    ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA, which limit torch's kernels and oneDNN's to those of older processors,
    limit it too; where only oneDNN is limited, the name has "oneDNN limited to".
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability != "AVX512":
        return capability
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    if limit.upper() not in ("", "ALL", "DEFAULT"):
        return f"{capability}, oneDNN limited to {limit}"
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else capability


def is_limited() -> bool:
    """Whether the environment limits this processor to the instructions of an older one."""
    return any(os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"))
