"""The peers by name."""

from __future__ import annotations

from ifmmin.benchmarks.peers.base import Peer
from ifmmin.runtime.errors import InputError

_TF32_TOLERANCE = 0.05
"""TensorRT inside of ONNX Runtime may drop 13 bits of every factor, and has no option against."""

PEERS: tuple[Peer, ...] = (
    Peer("eager", "PyTorch, eager mode", "eager:Eager", "torch"),
    Peer("compile", "torch.compile, lengths dynamic", "compiled:Compiled", "torch"),
    Peer(
        "torchscript",
        "TorchScript, frozen and optimised for inference",
        "torchscript:TorchScript",
        "torch",
    ),
    Peer("monolith", "one ONNX graph in ONNX Runtime, CPU", "monolith:Monolith", "onnxruntime-cpu"),
    Peer("openvino", "the monolith in OpenVINO, float32", "monolith:MonolithOpenVino", "openvino"),
    Peer(
        "onnxruntime-cuda",
        "the monolith in ONNX Runtime, CUDA",
        "monolith:MonolithCuda",
        "onnxruntime-cuda",
    ),
    Peer(
        "onnxruntime-tensorrt",
        "the monolith in ONNX Runtime, TensorRT",
        "monolith:MonolithTensorrtProvider",
        "onnxruntime-tensorrt",
        tolerance=_TF32_TOLERANCE,
    ),
    Peer("tensorrt", "the monolith in native TensorRT", "monolith:MonolithTensorrt", "tensorrt"),
)
"""What one would use instead, from the plainest on."""


def find_peer(name: str) -> Peer:
    """The peer called `name`; InputError lists them."""
    for peer in PEERS:
        if peer.name == name:
            return peer
    known = ", ".join(peer.name for peer in PEERS)
    raise InputError(f"unknown peer {name!r}; use one of {known}")
