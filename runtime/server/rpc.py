"""gRPC: the Open Inference Protocol's service, and gRPC's health check."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc

from ..console import package_version
from .app import EXTENSIONS, Access
from .messages import HEALTH, INFERENCE, NOT_SERVING, SERVING, TYPES
from .models import config_of, metadata_of
from .request import InferRequest, InferResponse, Model, RefusedError, Tensor
from .service import Service, counted
from .tensors import decode_raw, decode_values, encode_raw

SERVICE, HEALTH_SERVICE = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_OPEN = (f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady", f"/{HEALTH_SERVICE}/Check")
"""Methods that need no token."""


async def open_rpc(
    service: Service, access: Access, place: str, tls: grpc.ServerCredentials | None
) -> tuple[grpc.aio.Server, int]:
    """A server that answers at `host:port`, and its port. Raises RuntimeError where it cannot."""
    limit = service.limits.body
    server = grpc.aio.server(
        interceptors=[_Guard(access.token)] if access.token is not None else [],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", service.limits.sequences),
        ],
    )
    server.add_generic_rpc_handlers(_handlers(service))
    if tls is None:
        port: int = server.add_insecure_port(place)
    else:
        port = server.add_secure_port(place, tls)
    await server.start()
    return server, port


def _handlers(service: Service) -> tuple[grpc.GenericRpcHandler, ...]:
    unary: dict[str, Callable[[Any], dict[str, Any]]] = {
        "ServerLive": lambda _: {"live": True},
        "ServerReady": lambda _: {"ready": not service.draining.is_set()},
        "ServerMetadata": lambda _: {
            "name": "ifmmin", "version": package_version(), "extensions": EXTENSIONS,
        },
        "ModelReady": lambda asked: {
            "ready": _model(service, asked) is not None and not service.draining.is_set()
        },
        "ModelMetadata": lambda asked: metadata_of(_model(service, asked)),
        "ModelConfig": lambda asked: {"config": _config(_model(service, asked))},
        "RepositoryIndex": lambda _: {
            "models": [
                {"name": name, "version": "1", "state": "READY"} for name in service.models
            ]
        },
    }  # fmt: skip
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            partial(_told, tell, INFERENCE[f"{name}Response"]),
            request_deserializer=INFERENCE[f"{name}Request"].FromString,
            response_serializer=_serialise,
        )
        for name, tell in unary.items()
    }
    methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
        partial(_infer, service),
        request_deserializer=INFERENCE["ModelInferRequest"].FromString,
        response_serializer=_serialise,
    )
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        partial(_stream_infer, service),
        request_deserializer=INFERENCE["ModelInferRequest"].FromString,
        response_serializer=_serialise,
    )
    health = {
        "Check": grpc.unary_unary_rpc_method_handler(
            partial(_check, service),
            request_deserializer=HEALTH["HealthCheckRequest"].FromString,
            response_serializer=_serialise,
        )
    }
    return (
        grpc.method_handlers_generic_handler(SERVICE, methods),
        grpc.method_handlers_generic_handler(HEALTH_SERVICE, health),
    )


def _serialise(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


async def _told(
    tell: Callable[[Any], dict[str, Any]], response: Any, asked: Any, context: Any
) -> Any:
    try:
        return response(**tell(asked))
    except RefusedError as error:
        await context.abort(_CODES[error.status], str(error))


def _model(service: Service, asked: Any) -> Model:
    if asked.version not in ("", "1"):
        raise RefusedError(f"got version {asked.version[:20]!r}, wanted 1", 404)
    return service.model(asked.name)


def _config(model: Model) -> dict[str, Any]:
    config = config_of(model)
    for kind in ("input", "output"):
        for one in config[kind]:
            one["data_type"] = TYPES.index(one["data_type"].removeprefix("TYPE_"))
    return config


async def _check(service: Service, asked: Any, context: Any) -> Any:
    if asked.service not in ("", SERVICE):
        await context.abort(grpc.StatusCode.NOT_FOUND, f"got service {asked.service[:100]!r}")
    status = NOT_SERVING if service.draining.is_set() else SERVING
    return HEALTH["HealthCheckResponse"](status=status)


async def _infer(service: Service, asked: Any, context: Any) -> Any:
    with counted(service, asked.model_name, "grpc") as outcome:
        return _encoded(await service.submit(_decoded(asked)))
    await context.abort(_CODES.get(outcome.status, _CODES[400]), outcome.message)


async def _stream_infer(
    service: Service, asked: AsyncIterator[Any], context: Any
) -> AsyncIterator[Any]:
    """Answers in the order of requests; an error is told in its place, and the stream goes on."""
    response = INFERENCE["ModelStreamInferResponse"]
    async for one in asked:
        with counted(service, one.model_name, "grpc") as outcome:
            answer = _encoded(await service.submit(_decoded(one)))
            yield response(infer_response=answer)
        if outcome.message:
            failed = INFERENCE["ModelInferResponse"](model_name=one.model_name, id=one.id)
            yield response(error_message=outcome.message, infer_response=failed)


def _decoded(asked: Any) -> InferRequest:
    """RefusedError for what is no such request."""
    if asked.model_version not in ("", "1"):
        raise RefusedError(f"got version {asked.model_version[:20]!r}, wanted 1", 404)
    raw, inputs = list(asked.raw_input_contents), {}
    if raw and len(raw) != len(asked.inputs):
        raise RefusedError(f"got {len(raw)} raw contents for {len(asked.inputs)} inputs")
    for number, one in enumerate(asked.inputs):
        if one.name in inputs:
            raise RefusedError(f"input {one.name[:100]!r} is given twice")
        if raw:
            if one.HasField("contents"):
                raise RefusedError(f"input {one.name[:100]!r} has contents and raw contents")
            inputs[one.name] = decode_raw(one.name, one.datatype, one.shape, raw[number])
        else:
            inputs[one.name] = _typed(one)
    return InferRequest(
        asked.model_name, inputs, asked.id, _parameters(asked.parameters),
        tuple(output.name for output in asked.outputs),
    )  # fmt: skip


def _typed(one: Any) -> Tensor:
    field = _CONTENTS.get(one.datatype)
    if field is None:
        raise RefusedError(
            f"input {one.name[:100]!r}: got datatype {one.datatype[:100]!r}, wanted one of "
            f"{', '.join(_CONTENTS)}, or raw contents"
        )
    return decode_values(one.name, one.datatype, one.shape, getattr(one.contents, field))


def _parameters(given: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in given.items():
        which = parameter.WhichOneof("parameter_choice")
        if which is not None:
            found[name] = getattr(parameter, which)
    return found


def _encoded(response: InferResponse) -> Any:
    made = INFERENCE["ModelInferResponse"](
        model_name=response.model,
        model_version="1",
        id=response.id,
        outputs=[
            {"name": one.name, "datatype": one.datatype, "shape": one.array.shape}
            for one in response.outputs
        ],
        raw_output_contents=[encode_raw(one) for one in response.outputs],
    )
    for name, value in response.parameters.items():
        kind = "string_param" if isinstance(value, str) else "double_param"
        setattr(made.parameters[name], kind, value)
    return made


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the token."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        given = _metadata(handler_call_details.invocation_metadata).get("authorization", "")
        if handler_call_details.method in _OPEN or hmac.compare_digest(
            str(given).encode(), self._wanted
        ):
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(_unauthenticated)


async def _unauthenticated(asked: Any, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "wanted the metadata authorization: Bearer TOKEN"
    )


def _metadata(pairs: Iterable[tuple[str, Any]] | None) -> dict[str, Any]:
    return dict(pairs or ())
