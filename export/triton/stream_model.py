"""Triton's model `stream`: a sequence of requests is a stream, each pushes frames.

Copied into the repository as it is; needs ifmmin[cpu] in Triton's Python. The bundle's graphs for
streams lie beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ifmmin.runtime import IfmminError, Predictor


class TritonPythonModel:
    """Streams by the identity of their sequence."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graphs."""
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self.predictor = Predictor(folder)
        self.streams: dict[int, Any] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer to each request, in order."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """That of the stream after these frames."""
        key = int(_value(request, "CORRID"))
        try:
            if _value(request, "START"):
                self.streams[key] = self.predictor.stream()
            stream = self.streams[key]
            frames = {}
            for name in "avt":
                tensor = pb_utils.get_input_tensor_by_name(request, name)
                if tensor is not None:
                    frames[name] = tensor.as_numpy()[0]
            if frames:
                stream.push(frames)
            found = stream.predict()
        except (IfmminError, KeyError) as error:
            return pb_utils.InferenceResponse(
                output_tensors=[], error=pb_utils.TritonError(str(error))
            )
        finally:
            if _value(request, "END"):
                self.streams.pop(key, None)
        label = np.array([[found.label.encode()]], object)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("probabilities", found.probabilities[None]),
                pb_utils.Tensor("logits", found.logits[None]),
                pb_utils.Tensor("label", label),
            ]
        )


def _value(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]
