"""Tensors of the Open Inference Protocol in HTTP bodies, as JSON and as bytes after it.

The bytes are Triton's binary extension: a header says how long the JSON is, each tensor's
parameter `binary_data_size` how many bytes of what follows are its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..files import JSON_ERRORS
from .request import DATATYPES, InferRequest, InferResponse, RefusedError, Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Of HTTP: the length in bytes of the JSON before the tensors."""
_DIMENSIONS = 3
"""At most, of a tensor."""
_LENGTH = struct.Struct("<I")


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


_DECODER = msgspec.json.Decoder(_Request)
_ENCODER = msgspec.json.Encoder()


def decode_request(model: str, body: bytes, header_length: str | None) -> InferRequest:
    """The request in a body. header_length: of `HEADER_LENGTH`; None: all of it is JSON.

    Raises RefusedError for whatever is not a request.
    """
    length = _json_length(body, header_length)
    try:
        found = _DECODER.decode(body[:length])
    except JSON_ERRORS as error:
        raise RefusedError(f"the request is no JSON of the protocol: {error}") from error
    position, inputs = length, {}
    for one in found.inputs:
        if one.name in inputs:
            raise RefusedError(f"input {one.name[:100]!r} is given twice")
        size = one.parameters.get("binary_data_size")
        if size is None:
            inputs[one.name] = _from_json(one)
            continue
        if type(size) is not int or not 0 <= size <= len(body) - position:
            raise RefusedError(
                f"input {one.name[:100]!r}: got binary_data_size {size!r}, but "
                f"{len(body) - position} bytes are left in the request"
            )
        content = memoryview(body)[position : position + size]
        inputs[one.name] = decode_raw(one.name, one.datatype, one.shape, content)
        position += size
    if position != len(body):
        raise RefusedError(f"{len(body) - position} bytes of the request belong to no input")
    parameters = found.parameters
    if any(output.parameters.get("binary_data") for output in found.outputs):
        parameters = {**parameters, "binary_data_output": True}
    wanted = tuple(output.name for output in found.outputs)
    return InferRequest(model, inputs, found.id, parameters, wanted)


def encode_response(request: InferRequest, response: InferResponse) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where bytes follow it."""
    binary = request.parameters.get("binary_data_output") is True
    outputs, contents = [], []
    for tensor in response.outputs:
        told: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape,
        }  # fmt: skip
        if binary:
            contents.append(encode_raw(tensor))
            told["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            told["data"] = _to_json(tensor)
        outputs.append(told)
    header = _ENCODER.encode(
        {"model_name": response.model, "model_version": "1", "id": response.id,
         "parameters": response.parameters, "outputs": outputs}
    )  # fmt: skip
    return (b"".join([header, *contents]), len(header)) if binary else (header, None)


def decode_raw(
    name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview
) -> Tensor:
    """The tensor in bytes of the protocol. RefusedError where they are not such a tensor."""
    count = _count(name, datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, _strings(name, count, bytes(content)).reshape(shape))
    kind = np.dtype(DATATYPES[datatype])
    if len(content) != count * kind.itemsize:
        raise RefusedError(
            f"input {name[:100]!r}: got {len(content)} bytes, wanted {count * kind.itemsize} of "
            f"{datatype} {list(shape)}"
        )
    array = np.frombuffer(content, kind)
    if not array.flags.aligned:  # as its place after the JSON has it; slow to compute with
        array = array.copy()
    return Tensor(name, datatype, array.reshape(shape))


def encode_raw(tensor: Tensor) -> bytes:
    """A tensor in bytes of the protocol."""
    if tensor.datatype != "BYTES":
        return tensor.array.astype(DATATYPES[tensor.datatype], copy=False).tobytes()
    return b"".join(_LENGTH.pack(len(one)) + one for one in tensor.array.ravel())


def decode_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """The tensor in a flat list of its values. RefusedError where they are not such a tensor."""
    count = _count(name, datatype, shape)
    if len(values) != count:
        raise RefusedError(
            f"input {name[:100]!r}: got {len(values)} values, wanted {count} of {datatype} "
            f"{list(shape)}"
        )
    kind = np.dtype(DATATYPES[datatype])
    try:
        array = np.empty(count, kind)
        array[:] = values
    except (ValueError, TypeError, OverflowError) as error:
        raise RefusedError(f"input {name[:100]!r}: not all values are {datatype}") from error
    return Tensor(name, datatype, array.reshape(shape))


def _json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not header_length.isascii() or not header_length.isdecimal() or len(header_length) > 12:
        raise RefusedError(f"{HEADER_LENGTH}: got {header_length[:100]!r}, wanted a number")
    length = int(header_length)
    if length > len(body):
        raise RefusedError(f"{HEADER_LENGTH}: got {length}, the request has {len(body)} bytes")
    return length


def _count(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Values of a tensor."""
    if datatype not in DATATYPES:
        raise RefusedError(
            f"input {name[:100]!r}: got datatype {datatype[:100]!r}, wanted one of "
            f"{', '.join(DATATYPES)}"
        )
    if not 1 <= len(shape) <= _DIMENSIONS or not all(0 < size < 1 << 31 for size in shape):
        raise RefusedError(
            f"input {name[:100]!r}: got shape {str(list(shape[:5]))[:100]}, wanted 1 to "
            f"{_DIMENSIONS} numbers above 0"
        )
    return math.prod(shape)


def _strings(name: str, count: int, content: bytes) -> NDArray[Any]:
    """Each after its length in 4 bytes."""
    found: list[bytes] = []
    position = 0
    while position < len(content) and len(found) < count:
        begins = position + _LENGTH.size
        if begins > len(content):
            break
        position = begins + _LENGTH.unpack_from(content, position)[0]
        found.append(content[begins:position])
    if position != len(content) or len(found) != count:
        raise RefusedError(
            f"input {name[:100]!r}: the bytes are not {count} texts, each after its length in 4 "
            "bytes"
        )
    array = np.empty(count, object)
    array[:] = found
    return array


_VALUES: dict[str, type] = {"BYTES": str, "BOOL": bool, "FP16": float, "FP32": float, "FP64": float}
"""What JSON has for a datatype; the others are whole numbers."""


def _from_json(one: _Input) -> Tensor:
    count = _count(one.name, one.datatype, one.shape)
    values, wanted = one.data, _VALUES.get(one.datatype, int)
    nested: Any = list[wanted]  # type: ignore[valid-type]
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, list):
        for _ in one.shape[1:]:
            nested = list[nested]
    try:
        # Converts nothing: true is no number, and 1.5 no whole one.
        values = msgspec.convert(values, nested)
        kind = np.dtype(DATATYPES[one.datatype])
        with np.errstate(over="ignore"):
            array = np.array(values, kind) if one.datatype != "BYTES" else _texts(values)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise RefusedError(
            f"input {one.name[:100]!r}: the data are not {one.datatype} of shape {one.shape}, as "
            "one list or nested"
        ) from error
    if array.size != count or (array.ndim > 1 and list(array.shape) != one.shape):
        raise RefusedError(
            f"input {one.name[:100]!r}: got data of shape {list(array.shape)}, wanted {one.shape}"
        )
    return Tensor(one.name, one.datatype, array.reshape(one.shape))


def _texts(values: Any) -> NDArray[Any]:
    texts = np.array(values, object)
    flat = np.empty(texts.size, object)
    flat[:] = [text.encode() for text in texts.ravel()]
    return flat.reshape(texts.shape)


def _to_json(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [one.decode(errors="replace") for one in tensor.array.ravel()]
    values: list[Any] = tensor.array.ravel().tolist()
    return values
