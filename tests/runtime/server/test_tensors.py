"""Tensors in bodies of HTTP: what was packed comes back, and nothing else is taken."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as made
from mutations import Change, fuzzed, mutated, mutations

from ifmmin.runtime.server.request import (
    DATATYPES,
    InferRequest,
    InferResponse,
    RefusedError,
    Tensor,
)
from ifmmin.runtime.server.tensors import decode_request, encode_raw, encode_response

NUMBERS = sorted(set(DATATYPES) - {"BYTES"})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    name = draw(st.sampled_from(NUMBERS))
    shape = draw(made.array_shapes(min_dims=1, max_dims=3, max_side=4))
    finite = {"allow_nan": False, "allow_infinity": False} if name.startswith("FP") else {}
    return Tensor("x", name, draw(made.arrays(DATATYPES[name], shape, elements=finite)))


def body_of(tensor: Tensor, binary: bool, **changes: Any) -> tuple[bytes, str | None]:
    one: dict[str, Any] = {
        "name": "x",
        "datatype": tensor.datatype,
        "shape": list(tensor.array.shape),
    }
    content = encode_raw(tensor)
    if binary:
        one["parameters"] = {"binary_data_size": len(content)}
    elif tensor.datatype == "BYTES":
        one["data"] = [text.decode() for text in tensor.array.ravel()]
    else:
        one["data"] = tensor.array.tolist()
    header = json.dumps({"id": "7", "inputs": [one | changes]}).encode()
    return (header + content, str(len(header))) if binary else (header, None)


@given(tensor=tensors(), binary=st.booleans())
def test_what_was_packed_comes_back(tensor: Tensor, binary: bool) -> None:
    found = decode_request("m", *body_of(tensor, binary))
    assert (found.model, found.id) == ("m", "7")
    again = found.inputs["x"]
    assert again.datatype == tensor.datatype
    assert again.array.flags.aligned
    assert np.array_equal(again.array, tensor.array)
    for wanted in (False, True):
        request = InferRequest("m", {}, parameters={"binary_data_output": wanted})
        body, length = encode_response(request, InferResponse("m", (tensor,), "7"))
        told = json.loads(body[:length])["outputs"][0]
        assert told["shape"] == list(tensor.array.shape)
        if wanted:
            assert body[length:] == encode_raw(tensor)
        else:
            flat = np.array(told["data"], tensor.array.dtype)
            assert np.array_equal(flat, tensor.array.ravel())


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=4), binary=st.booleans())
def test_texts_come_back(texts: list[str], binary: bool) -> None:
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    found = decode_request("m", *body_of(Tensor("x", "BYTES", array), binary)).inputs["x"]
    assert found.array.tolist() == array.tolist()


ONE = Tensor("x", "FP32", np.ones((2, 3), np.float32))


@fuzzed(600)
@given(changes=mutations(), binary=st.booleans())
def test_whatever_comes_is_a_request_or_refused(changes: list[Change], binary: bool) -> None:
    body, length = body_of(ONE, binary)
    with suppress(RefusedError):
        found = decode_request("m", mutated(body, changes), length)
        for tensor in found.inputs.values():
            assert tensor.datatype in DATATYPES
            assert tensor.array.size > 0


@given(body=st.binary(max_size=60), length=st.none() | st.text(max_size=14))
def test_bytes_of_any_kind(body: bytes, length: str | None) -> None:
    with pytest.raises(RefusedError):
        decode_request("m", body, length)


WRONG: dict[str, dict[str, Any]] = {
    "a shape of more": {"shape": [2, 4]},
    "a shape of other rows": {"shape": [3, 2]},
    "no shape": {"shape": []},
    "no frames": {"shape": [0, 3]},
    "negative": {"shape": [-2, -3]},
    "huge": {"shape": [1 << 40, 1 << 40]},
    "not whole": {"shape": [2.5, 3]},
    "true": {"shape": [True, 6]},
    "another datatype": {"datatype": "FLOAT"},
    "ragged": {"data": [[1.0, 2.0, 3.0], [1.0]]},
    "booleans": {"data": [True] * 6},
    "texts": {"data": ["1"] * 6},
    "null": {"data": [None] * 6},
    "no data": {"data": None},
    "an object": {"data": {"0": 1}},
    "one number": {"data": 1.0},
    "nested deeper": {"data": [[[1.0]]] * 6},
    "a size that is none": {"parameters": {"binary_data_size": "24"}},
    "a size below zero": {"parameters": {"binary_data_size": -1}},
    "a size that is not there": {"parameters": {"binary_data_size": 24}},
    "numbers for a whole one": {"datatype": "INT32", "data": [1.5] * 6},
    "out of range": {"datatype": "INT8", "data": [300] * 6},
    "below zero": {"datatype": "UINT8", "data": [-1] * 6},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_tensor_is_refused(name: str) -> None:
    if name == "a shape of other rows":  # of data that are nested
        assert ONE.array.shape != (3, 2)
    with pytest.raises(RefusedError) as caught:
        decode_request("m", *body_of(ONE, False, **WRONG[name]))
    assert caught.value.status == 400
    assert len(str(caught.value)) < 500


def test_bytes_that_belong_to_nothing_or_are_too_few() -> None:
    body, length = body_of(ONE, True)
    for wrong, header in (
        (body + b"1", length), (body[:-1], length), (body, None), (body, "-1"), (body, "9" * 40),
        (body, str(len(body) + 1)), (body, "1e2"), (body, ""),
    ):  # fmt: skip
        with pytest.raises(RefusedError):
            decode_request("m", wrong, header)
