"""The monolith in OpenVINO with bfloat16, where the processor multiplies that itself.

It is OpenVINO's default on such processors, so it is what many get without asking. Eight bits of
fraction are left, and answers move; how far stands beside its times.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.peers.base import Contender, Features, Lengths
from ifmmin.benchmarks.peers.monolith import MonolithOpenVino, export_monolith
from ifmmin.benchmarks.peers.whole import Standardised, standardise
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.train.network import EmotionNetwork

CPUINFO = Path("/proc/cpuinfo")
NATIVE = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of x86 and of Arm; without one, bfloat16 is emulated or silently float32."""


class OpenVinoBf16(Contender):
    """OpenVINO's CPU plugin, told to compute in bfloat16.

    Raises BackendUnavailable where it does not, whatever it was told.
    """

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        super().__init__(network, threads)
        openvino: Any = import_module("openvino")
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = openvino.Core()
            model = core.read_model(model=export_monolith(network))
            compiled = core.compile_model(model, "CPU", properties)
            used = compiled.get_property("INFERENCE_PRECISION_HINT")
        except Exception as error:  # OpenVINO raises RuntimeError, and others of pybind11
            raise BackendUnavailable(
                f"OpenVINO cannot compile the monolith for bfloat16 ({one_line(error)}); "
                "leave this peer out"
            ) from error
        if used != openvino.Type.bf16:
            raise BackendUnavailable(f"OpenVINO computes in {used.to_string()} here, not in bf16")
        self._request = compiled.create_infer_request()

    @classmethod
    def lacks(cls) -> str | None:
        """OpenVINO, or instructions for bfloat16."""
        reason = MonolithOpenVino.lacks()
        if reason is not None:
            return reason
        if not set(NATIVE) & processor_flags():
            return f"the processor has no bfloat16 of its own ({', '.join(NATIVE)})"
        return None

    def prepare(self, features: Features, lengths: Lengths) -> Standardised:
        """Standardised arrays (T, D) of all three modalities."""
        return standardise(self.network, features, lengths)

    def __call__(self, inputs: Standardised) -> NDArray[np.float32]:
        """Logits (C,) of prepared inputs."""
        named = {m.value: x for m, x in inputs.items()}
        found = self._request.infer(named, share_inputs=True, share_outputs=False)
        logits: NDArray[np.float32] = found[0][0]
        return logits


def processor_flags() -> set[str]:
    """Instruction sets of the first core, as Linux names them; none where it does not tell."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return set(found[1].split()) if found else set()
