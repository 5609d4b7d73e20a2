"""The network under `torch.compile`: Inductor writes C++, a compiler of the device builds it.

PyTorch runs an LSTM outside of what it compiles, so the module becomes several graphs. One set of
them serves all lengths but those that leave a single frame or window, for which it compiles apart.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ifmmin.benchmarks.peers.base import Features, Lengths
from ifmmin.benchmarks.peers.eager import Eager, Tensors
from ifmmin.benchmarks.peers.whole import example_inputs
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.train.network import EmotionNetwork

Build = Callable[..., Callable[..., Any]]


class Compiled(Eager):
    """`torch.compile(dynamic=True)` of the whole network.

    Compiling happens here and in `prepare`, with an empty cache so that its time is that of a first
    start, and without processes that would go on beside what is timed. `build_seconds` has it all.
    A length that had to be compiled for while it was timed would be told in `notes`.
    Raises BackendUnavailable where the compiler fails.
    """

    backend = "inductor"
    fewest_frames = 6
    """A single frame, or window of text, is compiled apart, for a quarter of a minute."""

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        super().__init__(network, threads)
        self._graphs = 0
        self._graphs_known = 0
        build: Build = torch._dynamo.lookup_backend(self.backend)

        def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self._graphs += 1
            return build(graph, inputs)

        self._compiled = torch.compile(self._module, backend=count, dynamic=True)
        self._compile(example_inputs(network))
        self.build_seconds = 0.0  # whoever opens it measures all of this

    @classmethod
    def lacks(cls) -> str | None:
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
        started = time.perf_counter()
        self._compile(inputs)
        self.build_seconds += time.perf_counter() - started
        return inputs

    def _compile(self, inputs: Tensors) -> None:
        try:
            with _compiling():
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


@contextmanager
def _compiling() -> Iterator[None]:
    """One compiler at a time, and nothing of what was compiled before."""
    from torch._inductor import config
    from torch._inductor.utils import fresh_inductor_cache

    with fresh_inductor_cache(), config.patch(compile_threads=1), warnings.catch_warnings():
        # Inductor itself calls what PyTorch has deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
