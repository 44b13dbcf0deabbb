"""Imports `airank_fast._host` (csrc/host/), for all others; None where it was not built, and Python runs instead."""

from __future__ import annotations

try:
    from airank_fast import _host as host  # type: ignore[attr-defined]
except ImportError:
    host = None

__all__ = ["host"]
