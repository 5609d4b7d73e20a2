"""Whole network in PyTorch, run as the reference does: zeros for what is missing.

This is what one has who takes the network as it is published: one module, three inputs, already
standardised. It runs as it is after training, as frozen TorchScript, and under `torch.compile`.
PyTorch runs an LSTM outside of what it compiles, so the module becomes several graphs. One set of
them serves all lengths but those that leave a single frame or window.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ifmmin.export.specialise.encoder import ExportEncoder, Front
from ifmmin.export.specialise.sequence import ExportSequenceEncoder
from ifmmin.export.specialise.text import ExportTextCNN
from ifmmin.runtime.errors import BackendUnavailable, one_line
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.data.corpus import Utterance, collate
from ifmmin.train.model.encoders import SequenceEncoder, TextCNN
from ifmmin.train.model.network import EmotionNetwork

from .base import Features, Lengths, OpenPeer

Standardised = Mapping[Modality, NDArray[np.float32]]
"""Per modality, all three of them, frames (T, D) as the encoders see them."""
Tensors = tuple[Tensor, ...]
"""Standardised frames (T, D) of a, v and t."""
Build = Callable[..., Callable[..., Any]]


def unsupported(network: EmotionNetwork) -> str | None:
    """Why the reference's way of running says nothing about a network; None where it does."""
    if network.config.architecture.statistics is not None:
        return (
            "the network pools statistics, for which zeros do not stand for a missing modality; "
            "peers run LSTM and text convolutions"
        )
    if lacking := [m.value for m in MODALITIES if m not in network.config.features]:
        return f"the network has no {' and no '.join(lacking)}; peers run those of a, v and t"
    return None


class WholeNetwork(nn.Module):
    """All encoders, S, imagination, classifier: (T, D) for a, v and t -> (1, C)."""

    every: Tensor

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.a, self.v, self.t = (_Encode(network, m) for m in MODALITIES)
        self.network = copy.deepcopy(network)  # of which only the head runs
        self.register_buffer("every", torch.ones(1, len(MODALITIES), dtype=torch.bool))

    def forward(self, a: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Logits before calibration."""
        h = torch.stack([self.a(a), self.v(v), self.t(t)], dim=1)
        return self.network.head(h, self.every).logits


class _Encode(nn.Module):
    """Standardised frames (T, D) -> (1, E): an LSTM, or text convolutions over the whole width."""

    def __init__(self, network: EmotionNetwork, modality: Modality) -> None:
        super().__init__()
        encoder, front = network.encoder(modality), Front(None, half=False, standard=None)
        if isinstance(encoder, TextCNN):
            self.encoder: ExportEncoder = ExportTextCNN(encoder, front, None)
        else:
            assert isinstance(encoder, SequenceEncoder), "see `unsupported`"
            self.encoder = ExportSequenceEncoder(encoder, front, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.embed(self.encoder.pool(x))


def whole(network: EmotionNetwork) -> WholeNetwork:
    """The module, in eval mode, without gradients, with weights of its own."""
    return WholeNetwork(network).requires_grad_(False).eval()


def standardise(network: EmotionNetwork, features: Features, lengths: Lengths) -> Standardised:
    """Standardise what is present (raw, (T, D)); zeros of `lengths` frames for the rest.

    Inputs shorter than the network takes are padded as everywhere.
    """
    batch = collate([Utterance("timed", dict(features), 0)], network.config)
    inputs = {}
    for modality in MODALITIES:
        if int(batch.lengths[modality]):
            frames = network.frames(batch.features[modality][0], modality).numpy()
        else:
            count = max(lengths[modality], network.config.minimum_length(modality))
            frames = np.zeros((count, network.config.frame_width(modality)), dtype=np.float32)
        inputs[modality] = np.ascontiguousarray(frames)
    return inputs


def example_inputs(network: EmotionNetwork) -> tuple[Tensor, ...]:
    """Zeros (T, D) for a, v and t to trace with; no two sizes are alike, nor taken for one."""
    widths = [network.config.frame_width(m) for m in MODALITIES]
    shortest = max(network.config.minimum_length(m) for m in MODALITIES)
    lengths = [n for n in range(shortest + 2, shortest + 8) if n not in widths]
    return tuple(torch.zeros(n, width) for n, width in zip(lengths, widths, strict=False))


class Eager(OpenPeer):
    """PyTorch's eager mode under `torch.inference_mode`. A call sets PyTorch's number of threads,
    which is that of the whole process, where it is another."""

    def __init__(self, network: EmotionNetwork, threads: int = 1, backend: str = "") -> None:
        super().__init__(network, threads, backend)
        self._module = whole(network)

    def prepare(self, features: Features, lengths: Lengths) -> Tensors:
        """Tensors that share no memory with the features."""
        found = standardise(self.network, features, lengths)
        return tuple(torch.from_numpy(found[m].copy()) for m in MODALITIES)

    def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
        """Logits (C,)."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._answer(inputs)[0].numpy()
        return logits

    def _answer(self, inputs: Tensors) -> Tensor:
        answer: Tensor = self._module(*inputs)
        return answer


class TorchScript(Eager):
    """`torch.jit.trace`, `freeze` and `optimize_for_inference`, as PyTorch advises for servers.

    Its executor specialises itself during the first calls of new lengths, so warm it up.
    """

    def __init__(self, network: EmotionNetwork, threads: int = 1, backend: str = "") -> None:
        super().__init__(network, threads, backend)
        torch.set_num_threads(threads)
        with warnings.catch_warnings(), torch.inference_mode():
            # PyTorch wants users elsewhere; this is what many deploy all the same.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # nn.LSTM asks for sizes in Python; what tracing froze, the comparison would find.
            warnings.filterwarnings("ignore", category=TracerWarning)
            example = example_inputs(network)
            traced = torch.jit.trace(self._module, example, check_trace=False)  # type: ignore[no-untyped-call]
            self._script = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    def _answer(self, inputs: Tensors) -> Tensor:
        answer: Tensor = self._script(*inputs)
        return answer


class Compiled(Eager):
    """`torch.compile(dynamic=True)` of the whole network.

    Compiling happens here and in `prepare`, without processes that would go on beside what is
    timed. A length that had to be compiled for while it was timed would be told in `notes`. Raises
    BackendUnavailable where the compiler fails.
    """

    backend = "inductor"
    fewest_frames = 6
    """A single frame, or window of text, is compiled apart, for a quarter of a minute."""

    def __init__(self, network: EmotionNetwork, threads: int = 1, backend: str = "") -> None:
        super().__init__(network, threads, backend)
        self._graphs = 0
        self._graphs_known = 0
        build: Build = torch._dynamo.lookup_backend(self.backend)

        def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self._graphs += 1
            return build(graph, inputs)

        self._compiled = torch.compile(self._module, backend=count, dynamic=True)
        self._compile(example_inputs(network))

    @classmethod
    def lacks(cls, backend: str = "") -> str | None:
        """A C++ compiler, for Inductor on the CPU."""
        default = "clang++" if sys.platform == "darwin" else "g++"
        compiler = os.environ.get("CXX") or default
        if shutil.which(compiler) is not None:
            return None
        return f"no C++ compiler {compiler} for torch.compile; install it, or name one in CXX"

    @property
    def notes(self) -> tuple[str, ...]:
        """Into how many graphs it was cut, and whether anything was compiled while it was timed."""
        said = f"compiled into {self._graphs_known} graphs"
        late = self._graphs - self._graphs_known
        return (said, f"{late} more were compiled while it was timed") if late else (said,)

    def prepare(self, features: Features, lengths: Lengths) -> Tensors:
        """Inputs, compiled for if their lengths are not like any before."""
        inputs = super().prepare(features, lengths)
        self._compile(inputs)
        return inputs

    def _compile(self, inputs: Tensors) -> None:
        from torch._inductor import config
        from torch._inductor.utils import fresh_inductor_cache

        # One compiler at a time, and nothing of what was compiled before.
        alone = config.patch(compile_threads=1)
        try:
            with fresh_inductor_cache(), alone, warnings.catch_warnings():
                # Inductor itself calls what PyTorch has deprecated.
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                self(inputs)
        except Exception as error:  # of Dynamo, Inductor or the compiler that they call
            raise BackendUnavailable(
                f"torch.compile fails here ({one_line(error)}); install a C++ compiler and the "
                "headers of Python, or leave this peer out"
            ) from error
        self._graphs_known = self._graphs

    def _answer(self, inputs: Tensors) -> Tensor:
        answer: Tensor = self._compiled(*inputs)
        return answer
