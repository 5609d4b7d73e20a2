"""Refuses sessions that compute on the CPU what was to be computed on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifmmin.runtime.backends.onnx_session import CPU, Placement
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry

COMPUTING = ("Conv", "Gemm", "GRU", "LSTM", "Loop", "MatMul", "RNN", "Scan")
"""Parts of names of what the network spends its time in. The rest handles sizes and masks, which
providers leave to the CPU on purpose: it is cheaper there than a way to the GPU and back."""


def require_placement(session: Any, provider: str, placement: Placement, entry: GraphEntry) -> None:
    """BackendUnavailable unless the provider is there and computes; it says how many ran where.

    Where this ONNX Runtime does not tell what runs where, that the session has the provider first
    must do.
    """
    providers = list(session.get_providers())
    if not providers or providers[0] != provider:
        have = ", ".join(providers) or "none"
        raise BackendUnavailable(
            f"ONNX Runtime gave {entry.file} a session without {provider} (it has {have}) and "
            "no reason; take another backend"
        )
    if not placement.operators:
        return
    computing = _computing_on_the_cpu(placement)
    if computing or not placement.nodes.get(provider):
        where = ", ".join(f"{count} on {name}" for name, count in placement.nodes.items())
        what = (
            f" ({', '.join(f'{n} {kind}' for kind, n in computing.items())})" if computing else ""
        )
        raise BackendUnavailable(
            f"{provider} does not compute {entry.file}: of its nodes {where}{what}; export it in "
            "another precision or recurrence, or take another backend"
        )


def notes_of(provider: str, placement: Placement) -> tuple[str, ...]:
    """One note on what the provider left to another, if it left anything."""
    others = {name: n for name, n in placement.nodes.items() if name != provider}
    if not others:
        return ()
    where = ", ".join(f"{count} on {name}" for name, count in others.items())
    return (f"{placement.nodes.get(provider, 0)} nodes on {provider}, {where}",)


def _computing_on_the_cpu(placement: Placement) -> Mapping[str, int]:
    types: Mapping[str, int] = placement.operators.get(CPU, {})
    return {kind: n for kind, n in types.items() if any(part in kind for part in COMPUTING)}
