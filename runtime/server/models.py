"""Models of the server: one per pattern, a router, recognition from sound and words, and streams.

Their names, inputs and outputs are those of a bundle; what they answer is what its predictor does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import IfmminError
from ..frontends.sound import Sound
from ..modality import Modality, Pattern
from ..prediction import Prediction
from ..recognizer import Recognizer
from ..stream.stream import Stream
from .request import InferRequest, InferResponse, Limits, Model, RefusedError, Tensor, TensorSpec

PLATFORM = "ifmmin"
"""What models say that they run on."""
Answer = InferResponse | Exception


def feature_inputs(
    bundle: Bundle, modalities: Sequence[Modality], *, optional: bool = False
) -> tuple[TensorSpec, ...]:
    """Inputs of features, one per modality: (T, D)."""
    specs = bundle.manifest.modalities
    return tuple(TensorSpec(m.value, "FP32", (-1, specs[m].dim), optional) for m in modalities)


def answer_outputs(bundle: Bundle) -> tuple[TensorSpec, ...]:
    """Outputs of every model."""
    classes = len(bundle.manifest.labels)
    return (
        TensorSpec("probabilities", "FP32", (classes,)),
        TensorSpec("logits", "FP32", (classes,)),
        TensorSpec("label", "BYTES", (1,)),
    )


def open_models(recognizer: Recognizer, limits: Limits) -> dict[str, Model]:
    """All models of a bundle by name."""
    predictor = recognizer.predictor
    models: list[Model] = [PatternModel(recognizer, pattern) for pattern in predictor.patterns]
    if predictor.patterns:
        models.append(RouterModel(recognizer))
    if Modality.A in recognizer.modalities or Modality.T in recognizer.modalities:
        models.append(SpeechModel(recognizer, limits))
    if predictor.stream_patterns:
        models.append(StreamModel(recognizer, limits))
    return {model.name: model for model in models}


def require_fitting(model: Model, request: InferRequest, limits: Limits) -> None:
    """RefusedError unless a model can answer a request."""
    specs = {spec.name: spec for spec in model.inputs}
    for name, tensor in request.inputs.items():
        spec = specs.get(name)
        if spec is None:
            raise RefusedError(
                f"model {model.name}: got input {name[:100]!r}, wanted {_list(model.inputs)}"
            )
        _require_spec(model.name, spec, tensor)
        if len(spec.shape) > 1 and len(tensor.array) > limits.frames:
            raise RefusedError(
                f"input {name}: got {len(tensor.array)} frames, at most {limits.frames} are taken",
                413,
            )
    missing = [spec.name for spec in model.inputs if not spec.optional]
    missing = [name for name in missing if name not in request.inputs]
    if missing:
        raise RefusedError(
            f"model {model.name}: wanted input {', '.join(missing)}, which is not there"
        )
    known = {spec.name for spec in model.outputs}
    for name in request.outputs:
        if name not in known:
            raise RefusedError(
                f"model {model.name}: got output {name[:100]!r}, wanted {_list(model.outputs)}"
            )


def _require_spec(model: str, spec: TensorSpec, tensor: Tensor) -> None:
    shape = tensor.array.shape
    fits = len(shape) == len(spec.shape) and all(
        wanted in (-1, got) for got, wanted in zip(shape, spec.shape, strict=True)
    )
    if tensor.datatype != spec.datatype or not fits:
        raise RefusedError(
            f"model {model}, input {spec.name}: got {tensor.datatype} {list(shape)}, wanted "
            f"{spec.datatype} {list(spec.shape)}"
        )


def _list(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _response(request: InferRequest, prediction: Prediction, *more: Tensor) -> InferResponse:
    label = np.empty(1, object)
    label[0] = prediction.label.encode()
    outputs = (
        Tensor("probabilities", "FP32", prediction.probabilities),
        Tensor("logits", "FP32", prediction.logits),
        Tensor("label", "BYTES", label),
        *more,
    )
    if request.outputs:
        outputs = tuple(one for one in outputs if one.name in request.outputs)
    told = {"pattern": str(prediction.pattern), "seconds": prediction.seconds}
    return InferResponse(request.model, outputs, request.id, told)


class PatternModel:
    """Answers features of one pattern; several requests in a batch."""

    sequential = False

    def __init__(self, recognizer: Recognizer, pattern: Pattern) -> None:
        self._predictor = recognizer.predictor
        self._pattern: Pattern | None = pattern
        bundle = self._predictor.bundle
        self.name = str(pattern)
        self.inputs = feature_inputs(bundle, tuple(pattern))
        self.outputs = answer_outputs(bundle)
        self.batches = bundle.has("throughput", pattern)

    def answer(self, requests: Sequence[InferRequest]) -> list[Answer]:
        """Answers of the predictor; an error is of its request alone."""
        if len(requests) > 1:
            try:
                found = self._predictor.predict_batch(
                    [_features(request) for request in requests], pattern=self._pattern
                )
                return [_response(*one) for one in zip(requests, found, strict=True)]
            except IfmminError:
                pass  # of one of them; each alone says of which
        return [self._answer_one(request) for request in requests]

    def _answer_one(self, request: InferRequest) -> Answer:
        try:
            return _response(
                request, self._predictor.predict(_features(request), pattern=self._pattern)
            )
        except IfmminError as error:
            return error


class RouterModel(PatternModel):
    """Answers from whichever features are there."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._predictor = recognizer.predictor
        self._pattern = None
        bundle = self._predictor.bundle
        self.name = "emotion"
        self.inputs = feature_inputs(bundle, tuple(bundle.manifest.modalities), optional=True)
        self.outputs = answer_outputs(bundle)
        self.batches = False


class SpeechModel:
    """Answers sound, words or both, with the front-ends of the bundle."""

    name = "speech"
    sequential = False
    batches = False

    def __init__(self, recognizer: Recognizer, limits: Limits) -> None:
        self._recognizer, self._limits = recognizer, limits
        sound = (
            TensorSpec("samples", "FP32", (-1,), optional=True),
            TensorSpec("rate", "INT32", (1,), optional=True),
        )
        words = (TensorSpec("text", "BYTES", (1,), optional=True),)
        here = recognizer.modalities
        self.inputs = (sound if Modality.A in here else ()) + (words if Modality.T in here else ())
        self.outputs = answer_outputs(recognizer.predictor.bundle)

    def answer(self, requests: Sequence[InferRequest]) -> list[Answer]:
        """Answers of the recognizer; an error is of its request alone."""
        return [self._answer_one(request) for request in requests]

    def _answer_one(self, request: InferRequest) -> Answer:
        try:
            found = self._recognizer.recognize(
                sound=self._sound(request.inputs), text=self._text(request.inputs)
            )
            return _response(request, found)
        except IfmminError as error:
            return error

    def _sound(self, inputs: Mapping[str, Tensor]) -> Sound | None:
        if "samples" not in inputs:
            if "rate" in inputs:
                raise RefusedError("got a rate without samples")
            return None
        rate = int(inputs["rate"].array[0]) if "rate" in inputs else 16000
        sound = Sound(inputs["samples"].array, rate)
        if sound.seconds > self._limits.seconds:
            raise RefusedError(
                f"got {sound.seconds:.0f} seconds of sound, at most {self._limits.seconds:g} are "
                "taken; cut it, or listen to it by /v1/listen",
                413,
            )
        return sound

    def _text(self, inputs: Mapping[str, Tensor]) -> str | None:
        if "text" not in inputs:
            return None
        try:
            text: str = inputs["text"].array[0].decode()
        except UnicodeDecodeError as error:
            raise RefusedError("the text is not UTF-8") from error
        if len(text) > self._limits.text:
            raise RefusedError(
                f"got a text of {len(text)} characters, at most {self._limits.text} are taken", 413
            )
        return text


class StreamModel:
    """Streams of features: each request of a sequence pushes frames and gets the answer so far.

    With `sequence_start` one begins, from a snapshot where that is given; with `sequence_end` it is
    forgotten after its answer.
    """

    name = "stream"
    sequential = True
    batches = False

    def __init__(self, recognizer: Recognizer, limits: Limits) -> None:
        self._predictor, self._limits = recognizer.predictor, limits
        bundle = self._predictor.bundle
        kept = TensorSpec("snapshot", "BYTES", (1,), optional=True)
        modalities = tuple(bundle.manifest.modalities)
        self.inputs = (*feature_inputs(bundle, modalities, optional=True), kept)
        self.outputs = (*answer_outputs(bundle), kept)
        self._streams: dict[int | str, tuple[Stream, float]] = {}

    def __len__(self) -> int:
        """Sequences that are open."""
        return len(self._streams)

    def answer(self, requests: Sequence[InferRequest]) -> list[Answer]:
        """Answers of streams. Requests of one sequence come one after the other."""
        return [self._answer_one(request) for request in requests]

    def _answer_one(self, request: InferRequest) -> Answer:
        key = sequence_of(request)
        try:
            stream = self._find(key, request)
            frames = _features(request)
            if frames:
                stream.push(frames)
            found = stream.predict()
            kept = () if "snapshot" not in request.outputs else (_snapshot(stream),)
        except IfmminError as error:
            return error
        self._streams[key] = stream, time.monotonic()
        if request.parameters.get("sequence_end"):
            self._streams.pop(key, None)
        return _response(request, found, *kept)

    def _find(self, key: int | str, request: InferRequest) -> Stream:
        self._forget_idle()
        kept = request.inputs.get("snapshot")
        if not request.parameters.get("sequence_start"):
            if kept is not None:
                raise RefusedError("a snapshot is taken with sequence_start alone")
            try:
                return self._streams[key][0]
            except KeyError:
                raise RefusedError(
                    f"sequence {key!r} is not open: begin it with sequence_start; one that nobody "
                    f"pushes to for {self._limits.idle:g} seconds is forgotten"
                ) from None
        if key not in self._streams and len(self._streams) >= self._limits.sequences:
            raise RefusedError(f"{len(self._streams)} sequences are open; end one", 429)
        stream = self._predictor.stream()
        if kept is not None:
            stream.resume(kept.array[0])
        return stream

    def _forget_idle(self) -> None:
        oldest = time.monotonic() - self._limits.idle
        for key, (_, used) in list(self._streams.items()):
            if used < oldest:
                self._streams.pop(key, None)


def sequence_of(request: InferRequest) -> int | str:
    """The sequence that a request is of. RefusedError where it names none."""
    found = request.parameters.get("sequence_id")
    if isinstance(found, bool) or not isinstance(found, int | str) or not found:
        raise RefusedError("wanted the parameter sequence_id, a number above 0 or a name")
    if isinstance(found, str) and len(found) > 200:
        raise RefusedError("sequence_id: wanted at most 200 characters")
    return found


def _features(request: InferRequest) -> dict[str, Any]:
    return {
        name: tensor.array for name, tensor in request.inputs.items() if tensor.datatype == "FP32"
    }


def _snapshot(stream: Stream) -> Tensor:
    array = np.empty(1, object)
    array[0] = stream.snapshot()
    return Tensor("snapshot", "BYTES", array)


def config_of(model: Model) -> dict[str, Any]:
    """A model's configuration as Triton's extension of the protocol has it."""
    kinds = {"BYTES": "TYPE_STRING"}

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {"name": one.name, "data_type": kinds.get(one.datatype, f"TYPE_{one.datatype}"),
             "dims": list(one.shape)} | ({"optional": True} if one.optional else {})
            for one in specs
        ]  # fmt: skip

    config: dict[str, Any] = {
        "name": model.name, "platform": PLATFORM, "backend": PLATFORM,
        "version_policy": {"latest": {"num_versions": 1}}, "max_batch_size": 0,
        "input": tensors(model.inputs),
        "output": tensors([one._replace(optional=False) for one in model.outputs]),
    }  # fmt: skip
    if model.sequential:
        config["sequence_batching"] = {"max_sequence_idle_microseconds": 0}
    return config


def metadata_of(model: Model) -> dict[str, Any]:
    """A model's metadata as the protocol has it."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]

    return {
        "name": model.name, "versions": ["1"], "platform": PLATFORM,
        "inputs": tensors(model.inputs), "outputs": tensors(model.outputs),
    }  # fmt: skip
