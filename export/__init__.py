"""Turns a checkpoint into a bundle: small proven ONNX graphs for every missing pattern.

Names are loaded when they are first used: `ifmmin-bundle` runs where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export import Request, export_bundle
    from .specialise.network import SpecialisedNetwork, specialise
    from .verify.parity import Comparison

_HOMES = {
    "Comparison": "compare",
    "Request": "export",
    "SpecialisedNetwork": "specialise",
    "export_bundle": "export",
    "specialise": "specialise",
}

__all__ = ["Comparison", "Request", "SpecialisedNetwork", "export_bundle", "specialise"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
