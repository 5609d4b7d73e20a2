"""App: the routes of HTTP and WebSocket, and who may use them."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from ..console import package_version
from .listen import listen
from .models import config_of, metadata_of
from .request import InferRequest, RefusedError
from .service import Service, counted
from .tensors import HEADER_LENGTH, decode_request, encode_response

_HERE = Path(__file__).parent
_PAGE = {
    "/": "index.html",
    **{f"/{name}": name for name in ("page.css", "page.js", "engines.js", "icon.svg")},
}
_OPEN = {*_PAGE, "/v2/health/live", "/v2/health/ready"}
"""Paths that need no token: they tell nothing of anybody."""
_LARGE = 1 << 17
"""Bytes from which a body is read in a worker's thread."""
_JSON = "application/json"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "sequence"]
"""Of the protocol, that it speaks."""
_ENCODE = msgspec.json.Encoder().encode
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """Who may use a server."""

    token: str | None = None
    """That clients have to give; None: none."""
    origins: tuple[str, ...] = ()
    """Of pages, such as https://example.org, that may use it besides its own."""
    loopback: bool = True
    """Whether it is reached as this machine alone, and by no other name."""


def create_app(service: Service, access: Access | None = None) -> Starlette:
    """The application of a service, for any server of ASGI."""
    access = access or Access()
    get = partial(Route, methods=["GET"])
    post = partial(Route, methods=["POST"])
    one = "/v2/models/{model}"
    routes: list[Route | WebSocketRoute] = []
    for prefix in (one, one + "/versions/{version}"):
        routes += [
            post(f"{prefix}/infer", partial(_infer, service)),
            get(f"{prefix}/ready", partial(_model_ready, service)),
            get(f"{prefix}/config", partial(_model_config, service)),
            get(prefix, partial(_model_metadata, service)),
        ]
    routes += [
        get("/v2/health/live", _live),
        get("/v2/health/ready", partial(_ready, service)),
        get("/v2", partial(_metadata, service)),
        post("/v2/repository/index", partial(_index, service)),
        get("/metrics", partial(_metrics, service)),
        get("/openapi.json", _openapi),
        WebSocketRoute("/v1/listen", partial(_listen, service)),
        *(get(path, partial(_page, name)) for path, name in _PAGE.items()),
    ]
    middleware = [Middleware(_Guard, access=access)]
    if access.origins:
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", HEADER_LENGTH],
                expose_headers=[HEADER_LENGTH],
            ),
        )  # fmt: skip
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers={HTTPException: _refused}
    )


async def _infer(service: Service, request: Request) -> Response:
    name = request.path_params["model"]
    with counted(service, name, "http") as outcome:
        _require_version(request)
        service.model(name)
        body = await _body(request, service.limits.body)
        decode = partial(decode_request, name, body, request.headers.get(HEADER_LENGTH))
        asked: InferRequest = decode() if len(body) < _LARGE else await service.run(decode)
        content, length = encode_response(asked, await service.submit(asked))
        headers = _closing(service)
        if length is None:
            return Response(content, media_type=_JSON, headers=headers)
        headers[HEADER_LENGTH] = str(length)
        return Response(content, media_type="application/octet-stream", headers=headers)
    return _error(outcome.status, outcome.message)


async def _body(request: Request, limit: int) -> bytes:
    """The body. RefusedError where it is too large, or the client goes."""
    too_large = RefusedError(f"the request is larger than {limit} bytes", 413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError("content-encoding: wanted none", 415)

    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise too_large
            pieces.append(piece)
    except ClientDisconnect:
        raise RefusedError("the client went away") from None
    return b"".join(pieces)


def _require_version(request: Request) -> None:
    version = request.path_params.get("version", "1")
    if version != "1":
        raise RefusedError(f"got version {version[:20]!r}, wanted 1", 404)


async def _live(request: Request) -> Response:
    return Response()


async def _ready(service: Service, request: Request) -> Response:
    return Response(status_code=503 if service.draining.is_set() else 200)


async def _metadata(service: Service, request: Request) -> Response:
    return _json(
        {"name": "ifmmin", "version": package_version(),
         "extensions": EXTENSIONS}
    )  # fmt: skip


async def _index(service: Service, request: Request) -> Response:
    return _json([{"name": name, "version": "1", "state": "READY"} for name in service.models])


async def _model_metadata(service: Service, request: Request) -> Response:
    return _of_model(service, request, metadata_of)


async def _model_config(service: Service, request: Request) -> Response:
    return _of_model(service, request, config_of)


async def _model_ready(service: Service, request: Request) -> Response:
    found = _of_model(service, request, lambda model: {})
    if found.status_code != 200:
        return found
    return await _ready(service, request)


def _of_model(service: Service, request: Request, tell: Any) -> Response:
    try:
        _require_version(request)
        return _json(tell(service.model(request.path_params["model"])))
    except RefusedError as error:
        return _error(error.status, str(error))


async def _metrics(service: Service, request: Request) -> Response:
    return Response(
        service.metrics.to_text(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


async def _openapi(request: Request) -> Response:
    return FileResponse(_HERE / "openapi.json", media_type=_JSON)


async def _page(name: str, request: Request) -> Response:
    return FileResponse(
        _HERE / "page" / name,
        headers={
            "content-security-policy": "default-src 'self'; connect-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "permissions-policy": "microphone=(self)",
            "cache-control": "no-cache",
        },
    )


async def _listen(service: Service, websocket: WebSocket) -> None:
    await listen(websocket, service)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # what Starlette promises
    return _error(error.status_code, error.detail)


def _closing(service: Service) -> dict[str, str]:
    """Headers that send a client elsewhere, where the server is about to stop."""
    return {"connection": "close"} if service.draining.is_set() else {}


def _json(content: Any) -> Response:
    return Response(_ENCODE(content), media_type=_JSON)


def _error(status: int, message: str) -> Response:
    return Response(_ENCODE({"error": message}), status, media_type=_JSON)


class _Guard:
    """Refuses who may not: pages of other origins, other names of this machine, a wrong token."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._hosts: Collection[str] = {
            *_LOOPBACK, *(_host_of(origin.partition("://")[2]) for origin in access.origins)
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(1008, refused[1])
        else:
            await _error(*refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._access.loopback and _host_of(host) not in self._hosts:
            # A page elsewhere can have its own name lead here.
            return 403, f"got host {host[:100]!r}, wanted one of {', '.join(sorted(self._hosts))}"
        origin = headers.get(b"origin")
        if origin and origin not in self._access.origins and origin.partition("://")[2] != host:
            return 403, f"pages of {origin[:100]!r} may not use this server; see --allow-origin"
        token = self._access.token
        if token is None or scope["path"] in _OPEN:
            return None
        given = headers.get(b"authorization", "")
        if not given and scope["type"] == "websocket":
            # Browsers cannot send headers with a WebSocket.
            given = (
                "Bearer " + parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            )
        if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return None
        return 401, "wanted the header Authorization: Bearer TOKEN with this server's token"


def _host_of(host: str) -> str:
    """Without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
