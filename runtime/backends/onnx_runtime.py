"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.base import Backend, Runner
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.modality import Modality

_LOGITS = "logits"


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU execution provider.

    `threads` is the number of threads inside one call; they do not spin while idle, so that the
    device's other work keeps its cores.
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailable(
                "ONNX Runtime is not installed; run pip install 'ifmmin[cpu]', "
                "or 'ifmmin[gpu]' on a machine with an NVIDIA GPU"
            ) from error
        self._ort: Any = onnxruntime
        self._threads = threads

    def load(self, graph: bytes) -> Runner:
        """Make a session of the graph."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return _Session(
            self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        )


class _Session:
    """One session with its binding, which is made once: cheaper than `session.run`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._binding.bind_output(_LOGITS)

    def __call__(self, features: Mapping[Modality, NDArray[np.float32]]) -> NDArray[np.float32]:
        for modality, array in features.items():
            self._binding.bind_cpu_input(modality.value, array)
        self._session.run_with_iobinding(self._binding)
        logits: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return logits
