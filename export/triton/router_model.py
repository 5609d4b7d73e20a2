"""Triton's model `emotion`: takes whichever of a, v, t there are, and asks the pattern's model.

Copied into the repository as it is; needs nothing but numpy.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The router."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what the configuration says."""
        told = json.loads(args["model_config"])["parameters"]
        self.labels = json.loads(told["labels"]["string_value"])
        self.patterns = set(json.loads(told["patterns"]["string_value"]))
        self.batched = set(json.loads(told["batched"]["string_value"]))

    async def execute(self, requests: list[Any]) -> list[Any]:
        """An answer to each request."""
        return [await self.answer(request) for request in requests]

    async def answer(self, request: Any) -> Any:
        """That of the pattern's model, with probabilities and the label."""
        given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in "avt"}
        arrays = {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}
        pattern = "_".join(arrays)
        if pattern not in self.patterns:
            return _refused(f"got inputs {pattern or 'none'}, wanted {sorted(self.patterns)}")
        inputs = dict(arrays)
        if pattern in self.batched:
            inputs = {name: array[None] for name, array in arrays.items()}
            for name, array in arrays.items():
                inputs[f"{name}_lengths"] = np.array([[len(array)]], np.int64)
        asked = pb_utils.InferenceRequest(
            model_name=pattern,
            requested_output_names=["logits"],
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        )
        found = await asked.async_exec()
        if found.has_error():
            return _refused(found.error().message())
        logits = pb_utils.get_output_tensor_by_name(found, "logits").as_numpy().reshape(-1)
        return answered(logits, self.labels)


def answered(logits: Any, labels: list[str]) -> Any:
    """A response of probabilities, logits and label; an error where they are no numbers."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    if not np.isfinite(shares).all():
        return _refused("the answer is not a number; look at the features' scale")
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor("probabilities", shares.astype(np.float32)),
            pb_utils.Tensor("logits", logits.astype(np.float32)),
            pb_utils.Tensor("label", np.array([labels[int(shares.argmax())].encode()], object)),
        ]
    )


def _refused(message: str) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))
