"""The Open Inference Protocol over gRPC, and its messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from run_command import noise
from served import Served, served

from ifmmin.runtime import Predictor
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.runtime.server.messages import HEALTH, INFERENCE, TYPES
from ifmmin.runtime.server.rpc import HEALTH_SERVICE, SERVICE

SOME = {m: noise(m) for m in "avt"}
NUMBERS = {
    ("ModelInferRequest", "raw_input_contents"): 7, ("ModelInferRequest", "inputs"): 5,
    ("ModelInferResponse", "outputs"): 5, ("ModelInferResponse", "raw_output_contents"): 6,
    ("InferInputTensor", "contents"): 5, ("InferInputTensor", "parameters"): 4,
    ("InferParameter", "double_param"): 4, ("InferTensorContents", "bytes_contents"): 8,
    ("ModelConfig", "max_batch_size"): 4, ("ModelConfig", "sequence_batching"): 13,
    ("ModelInput", "optional"): 8, ("ModelInput", "dims"): 4, ("ModelOutput", "dims"): 3,
}  # fmt: skip


class Client:
    """Calls of one server."""

    def __init__(self, port: int | None) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(self, name: str, request: Any = None, **metadata: str) -> Any:
        """What a method answers."""
        made = request or INFERENCE[f"{name}Request"]()
        method = self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(made).SerializeToString,
            response_deserializer=INFERENCE[f"{name}Response"].FromString,
        )
        return method(made, timeout=20, metadata=tuple(metadata.items()))

    def refused(self, name: str, request: Any, **metadata: str) -> tuple[str, str]:
        """Code and message."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(name, request, **metadata)
        return caught.value.code().name, str(caught.value.details())


@pytest.fixture(scope="module")
def client(small: Served) -> Iterator[Client]:
    made = Client(small.grpc)
    yield made
    made.channel.close()


@pytest.fixture(scope="module")
def exact(batches: Path) -> Predictor:
    return Predictor(batches, backend="onnxruntime-cpu")


def asking(model: str, typed: bool = False, /, **arrays: Any) -> Any:
    request = INFERENCE["ModelInferRequest"](model_name=model, id="7")
    for name, array in arrays.items():
        one = request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        if typed:
            one.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    return request


def logits(response: Any) -> Any:
    index = [one.name for one in response.outputs].index("logits")
    return np.frombuffer(response.raw_output_contents[index], np.float32)


def test_fields_have_the_numbers_of_the_protocol() -> None:
    """Those that differ most between messages; conformance is tried with Triton's own client."""
    for (message, name), number in NUMBERS.items():
        assert INFERENCE[message].DESCRIPTOR.fields_by_name[name].number == number
    assert TYPES[11:14] == ("FP32", "FP64", "STRING")
    (parameter,) = {f.containing_oneof for f in INFERENCE["InferParameter"].DESCRIPTOR.fields}
    assert parameter is not None


def test_what_there_is(client: Client) -> None:
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert client.call("ServerMetadata").name == "ifmmin"
    models = [one.name for one in client.call("RepositoryIndex").models]
    assert models == [*map(str, ALL_PATTERNS), "emotion", "stream"]
    for name in models:
        assert client.call("ModelReady", INFERENCE["ModelReadyRequest"](name=name)).ready
        told = client.call("ModelMetadata", INFERENCE["ModelMetadataRequest"](name=name))
        config = client.call("ModelConfig", INFERENCE["ModelConfigRequest"](name=name)).config
        assert [i.name for i in config.input] == [i.name for i in told.inputs]
        assert [list(i.dims) for i in config.input] == [list(i.shape) for i in told.inputs]
        assert config.HasField("sequence_batching") == (name == "stream")
        assert TYPES[config.output[2].data_type] == "STRING"
    method = client.channel.unary_unary(
        f"/{HEALTH_SERVICE}/Check",
        request_serializer=HEALTH["HealthCheckRequest"].SerializeToString,
        response_deserializer=HEALTH["HealthCheckResponse"].FromString,
    )
    assert method(HEALTH["HealthCheckRequest"](), timeout=20).status == 1


@pytest.mark.parametrize("typed", [False, True])
def test_answers_are_the_predictor_s(client: Client, exact: Predictor, typed: bool) -> None:
    for pattern in ALL_PATTERNS:
        given = {m.value: SOME[m.value] for m in pattern}
        wanted = exact.predict(given)
        for model in (str(pattern), "emotion"):
            found = client.call("ModelInfer", asking(model, typed, **given))
            assert np.abs(logits(found) - wanted.logits).max() < 1e-5
            assert found.id == "7"
            assert found.parameters["pattern"].string_param == str(pattern)
            assert wanted.label.encode() in found.raw_output_contents[2]


def test_a_sequence_in_one_call_is_a_stream(client: Client, exact: Predictor) -> None:
    requests, wanted, stream = [], [], exact.stream()
    for number in range(6):
        frames: dict[str, Any] = {"a": noise("a", 3, number)}
        request = asking("stream", **frames)
        request.parameters["sequence_id"].int64_param = 5
        request.parameters["sequence_start"].bool_param = number == 0
        request.parameters["sequence_end"].bool_param = number == 4
        requests.append(request)
        stream.push(frames)
        wanted.append(stream.predict().logits)
    method = client.channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=INFERENCE["ModelInferRequest"].SerializeToString,
        response_deserializer=INFERENCE["ModelStreamInferResponse"].FromString,
    )
    *found, after = list(method(iter(requests), timeout=30))
    for one, right in zip(found, wanted, strict=False):
        assert one.error_message == ""
        assert np.abs(logits(one.infer_response) - right).max() < 1e-5
    assert after.error_message.startswith("sequence 5 is not open")


def _changed(change: Any) -> Any:
    request = asking("a", a=SOME["a"])
    change(request)
    return request


WRONG: dict[str, Any] = {
    "another model": (lambda r: setattr(r, "model_name", "x"), "NOT_FOUND"),
    "another version": (lambda r: setattr(r, "model_version", "2"), "NOT_FOUND"),
    "no input": (lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents")), ""),
    "an input twice": (
        lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.append(b"")), ""),
    "an unknown input": (lambda r: setattr(r.inputs[0], "name", "b"), ""),
    "another datatype": (lambda r: setattr(r.inputs[0], "datatype", "FP64"), ""),
    "no datatype": (lambda r: setattr(r.inputs[0], "datatype", ""), ""),
    "negative": (lambda r: r.inputs[0].shape.__setitem__(0, -1), ""),
    "no frames": (lambda r: r.inputs[0].shape.__setitem__(0, 0), ""),
    "too long": (lambda r: r.inputs[0].shape.__setitem__(0, 1 << 60), ""),
    "a dimension more": (lambda r: r.inputs[0].shape.append(1), ""),
    "no shape": (lambda r: r.inputs[0].ClearField("shape"), ""),
    "a byte less": (lambda r: r.raw_input_contents.__setitem__(0, b"1"), ""),
    "contents for one more": (lambda r: r.raw_input_contents.append(b""), ""),
    "both contents": (lambda r: r.inputs[0].contents.fp32_contents.append(1), ""),
    "no contents": (lambda r: r.ClearField("raw_input_contents"), ""),
    "not finite": (
        lambda r: r.raw_input_contents.__setitem__(0, (SOME["a"] * np.nan).tobytes()), ""),
    "an unknown output": (lambda r: r.outputs.add(name="x"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_answered_is_told(client: Client, name: str) -> None:
    change, code = WRONG[name]
    found, message = client.refused("ModelInfer", _changed(change))
    assert found == (code or "INVALID_ARGUMENT")
    assert message
    assert "\n" not in message
    assert client.call("ModelInfer", asking("a", a=SOME["a"]))


def test_too_much_and_no_token(batches: Path) -> None:
    with served("-b", batches, "--token", "secret") as server:
        client = Client(server.grpc)
        assert client.call("ServerReady").ready
        for metadata in ({}, {"authorization": "Bearer no"}):
            code, message = client.refused("ModelInfer", asking("a", a=SOME["a"]), **metadata)
            assert (code, "Bearer TOKEN" in message) == ("UNAUTHENTICATED", True)
        token = {"authorization": "Bearer secret"}
        assert client.call("ModelInfer", asking("a", a=SOME["a"]), **token)
        much = np.zeros((1 << 20, 5), np.float32)
        assert client.refused("ModelInfer", asking("a", a=much), **token)[0] == "RESOURCE_EXHAUSTED"
        long = noise("a", 20_001)
        assert client.refused("ModelInfer", asking("a", a=long), **token)[0] == "RESOURCE_EXHAUSTED"
        started = time.monotonic()
        client.channel.close()
    assert time.monotonic() - started < 20
