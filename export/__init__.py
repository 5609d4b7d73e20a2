"""Export of a checkpoint to a bundle: small proven ONNX graphs for every missing pattern.

Names are loaded when they are first used: `ifmmin-bundle` runs where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export import Request, export_bundle
    from .verify.parity import Comparison

_HOMES = {"Comparison": "verify.parity", "Request": "export", "export_bundle": "export"}

__all__ = ["Comparison", "Request", "export_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
