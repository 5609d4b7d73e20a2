"""Body of the cold-start worker: what a fresh process does up to its first answer, and when."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ifmmin.runtime.predictor import Predictor

Words = Mapping[str, str]
Inputs = Mapping[str, "NDArray[np.float32]"]
"""Arrays (T, D) by letter."""


class ChildRuntime(ABC):
    """What a fresh process can do, in this order. words: what it was told."""

    engine_seconds: float | None = None
    """Of the last answer, what the engine took, where it is the way's own to tell."""

    def __init__(self, words: Words) -> None:
        self.words = words

    @abstractmethod
    def imports(self) -> None:
        """Import what is needed up to the answer."""

    @abstractmethod
    def load(self) -> None:
        """Make it ready."""

    @abstractmethod
    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        """Logits (C,) of arrays (T, D) by letter."""


class PredictorRuntime(ChildRuntime):
    """The runtime, as a caller writes it; a pattern's graph is loaded by its first answer.

    words: bundle, backend, precision, threads; preload: whether all patterns are loaded at once;
    cache: directory of engines.
    """

    predictor: Predictor

    def imports(self) -> None:
        """The runtime, and the engine that it would import while it loads."""
        import ifmmin.runtime  # noqa: F401

        if self.words["backend"].startswith("onnxruntime"):
            import onnxruntime  # noqa: F401
        elif self.words["backend"] == "openvino":
            from ifmmin.runtime.backends.openvino import load_openvino

            load_openvino()

    def load(self) -> None:
        """Read the manifest; with `preload` check and load the graphs too."""
        from ifmmin.runtime import Predictor

        words, options = self.words, None
        if "cache" in words:
            from pathlib import Path

            from ifmmin.runtime.backends import BackendOptions

            options = BackendOptions(cache=Path(words["cache"]))
        self.predictor = Predictor(
            words["bundle"],
            backend=words["backend"],
            precision=words["precision"],
            threads=int(words["threads"]),
            preload="preload" in words,
            options=options,
        )

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        """Logits (C,)."""
        found = self.predictor.predict(inputs)
        self.engine_seconds = found.seconds
        return found.logits


class SessionRuntime(ChildRuntime):
    """A bare session of ONNX Runtime on the CPU. words: file, threads."""

    session: Any

    def imports(self) -> None:
        """ONNX Runtime, and numpy with it."""
        import onnxruntime  # noqa: F401

    def load(self) -> None:
        """Make the session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(self.words["threads"])
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.words["file"], options, providers=["CPUExecutionProvider"]
        )

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        """Logits (C,)."""
        logits: NDArray[np.float32] = self.session.run(None, dict(inputs))[0]
        return logits.reshape(-1)


class EagerRuntime(ChildRuntime):
    """The whole network in PyTorch, on standardised frames of all modalities.

    words: checkpoint, threads.
    """

    eager: Any

    def imports(self) -> None:
        """PyTorch and the modules of the network."""
        # The package's own imports are those of training, h5py and scipy among them, for a third
        # of the time: one who answers with PyTorch imports the network alone.
        if "ifmmin.train" not in sys.modules:
            sys.modules["ifmmin.train"] = _bare_package("ifmmin.train")
        import ifmmin.benchmarks.peers.torch
        import ifmmin.train.checkpoint  # noqa: F401

    def load(self) -> None:
        """Read the checkpoint and make the module."""
        from pathlib import Path

        from ifmmin.train.checkpoint import load_checkpoint

        from ..peers.torch import Eager

        network, _ = load_checkpoint(Path(self.words["checkpoint"]))
        self.eager = Eager(network, int(self.words["threads"]))

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        """Logits (C,)."""
        import torch

        logits: NDArray[np.float32] = self.eager(tuple(torch.from_numpy(inputs[m]) for m in "avt"))
        return logits


RUNTIMES: Mapping[str, type[ChildRuntime]] = {
    "predictor": PredictorRuntime,
    "session": SessionRuntime,
    "eager": EagerRuntime,
}


def read_words() -> dict[str, str]:
    """What this process was told."""
    return dict(word.split("=", 1) for word in sys.argv[1:])


def read_inputs(folder: str) -> Inputs:
    """The arrays of a folder, by their names."""
    import numpy as np

    found = (entry.name for entry in os.scandir(folder))
    return {name.removesuffix(".npy"): np.load(f"{folder}/{name}") for name in found}


def _bare_package(name: str) -> ModuleType:
    """A package whose modules can be imported without what its `__init__` does."""
    found = find_spec(name)
    assert found is not None
    module = ModuleType(name)
    module.__path__ = list(found.submodule_search_locations or ())
    return module


def main(began: float) -> None:
    """Answer one utterance, then print the moment at which each part was done.

    began: the clock at Python's first line. A predictor loads within its first call; what the
    engine itself took of that is the answer, the rest is loading.
    """
    words = read_words()
    config = RUNTIMES[words["config"]](words)
    config.imports()
    inputs = read_inputs(words["inputs"])
    imported = time.monotonic()
    config.load()
    loaded = time.monotonic()
    logits = config.answer(inputs)
    answered = time.monotonic()
    if config.engine_seconds is not None:
        loaded = answered - config.engine_seconds

    import json  # only now: it is no part of a start

    moments = {"process": began, "import": imported, "load": loaded, "first answer": answered}
    sys.stdout.write(json.dumps({"moments": moments, "logits": logits.tolist()}) + "\n")
