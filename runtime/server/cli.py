"""Command `ifmmin-serve`: a bundle over HTTP, gRPC and WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..cli.app import BundleOption, command, entry_point, new_app, require_bundle
from ..cli.options import execution, parse_threads
from ..console import log_line
from ..errors import InputError, OutputError, one_line
from ..predictor import Predictor
from ..recognizer import Recognizer
from .app import Access, create_app
from .metrics import LogLines, log
from .request import Limits
from .rpc import open_rpc
from .service import Service

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADER_SECONDS, _HEADER_BYTES = 10.0, 1 << 16
"""What a client may take until its request's headers are there."""
_BODY_SECONDS = 30.0
"""In which it has to send the rest."""
_REFUSED_SECONDS = 5.0
"""In which a client may go on sending a body that was refused."""
_GRACE = 0.5
"""Seconds in which a server that stops still answers who has not heard of it, each time saying so
by `connection: close`; and then those who are connected."""
_LONGEST_STOP = 30
"""Seconds after which connections that are still open are closed."""

app = new_app()


@dataclass(frozen=True)
class _Address:
    host: str
    port: int
    grpc_port: int | None
    certificate: Path | None
    key: Path | None


@command(app, "ifmmin-serve", "ifmmin-serve -b bundle --host 0.0.0.0 --token SECRET")
def serve(
    bundle: BundleOption = None,
    host: Annotated[str, typer.Option(help="Address to be reached at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For HTTP; 0: any free one.")] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="For gRPC; 0: any free one, -1: none.")
    ] = 8001,
    token: Annotated[
        str | None,
        typer.Option(envvar="IFMMIN_TOKEN", help="That clients give as Authorization: Bearer."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A page, such as https://example.org, that may use it."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate (PEM), for TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    backend: Annotated[str, execution("Backend of the graphs, or auto.")] = "auto",
    threads: Annotated[str, execution("Threads in one call, or auto.")] = "1",
    workers: Annotated[
        int | None, execution("Calls at the same time; default: one for each core, at most 8.")
    ] = None,
    batch_delay: Annotated[
        float, execution("Milliseconds that a batch waits for more requests.")
    ] = 1.0,
) -> None:
    """Answer over HTTP and gRPC (Open Inference Protocol v2) and WebSocket, with a page to try.

    Reached from this machine alone unless told otherwise. Nothing that is heard is kept.
    """
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key: give both, or none")
    if tls_cert is not None and tls_key is not None:
        _require_pair(tls_cert, tls_key)
    if workers is not None and not 1 <= workers <= 256:
        raise InputError(f"--workers: got {workers}, wanted 1 to 256")
    if not 0 <= batch_delay <= 1000:
        raise InputError(f"--batch-delay: got {batch_delay:g}, wanted 0 to 1000 milliseconds")
    for origin in allow_origin or ():
        if not origin.startswith(("http://", "https://")) or origin.endswith("/"):
            raise InputError(f"--allow-origin: got {origin!r}, wanted such as https://example.org")
    if token is not None and (not token or not token.isascii() or not token.isprintable()):
        raise InputError("--token: wanted printable ASCII characters")
    if host not in _LOOPBACK and token is None:
        log_line(f"--host {host}: everybody who reaches it may use it; see --token", "note")
    predictor = Predictor(
        require_bundle(bundle),
        backend=backend,
        threads=parse_threads(threads),
        preload=True,
        share=False,
    )
    recognizer = Recognizer(predictor)
    for modality in recognizer.modalities:
        recognizer.frontend(modality)
    access = Access(token, tuple(allow_origin or ()), host in _LOOPBACK)
    address = _Address(host, port, None if grpc_port < 0 else grpc_port, tls_cert, tls_key)
    make = partial(Service, recognizer, Limits(), workers=workers, delay=batch_delay / 1000)
    uvloop.run(_serve(make, access, address))


def _require_pair(certificate: Path, key: Path) -> None:
    """InputError unless the files are a certificate and its key."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(
            f"--tls-cert {certificate} and --tls-key {key} are no certificate in PEM with its key: "
            f"{one_line(error)}"
        ) from error


async def _serve(make: Callable[[], Service], access: Access, address: _Address) -> None:
    """Serve until a signal, then answer what was accepted."""
    logging.getLogger().addHandler(LogLines(logging.WARNING))
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # below it are clients' mistakes
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sockets = _bind(address.host, address.port)
    service = make()
    rpc, rpc_port = await _open_rpc(service, access, address)
    server = _Server(_config(create_app(service, access), address))
    serving = asyncio.create_task(server.serve(sockets))
    log(
        "serving", host=address.host, http=sockets[0].getsockname()[1], grpc=rpc_port,
        models=list(service.models),
    )  # fmt: skip
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    log("stopping", waiting=service.waiting)
    service.draining.set()
    await asyncio.sleep(_GRACE)
    for listening in server.servers:
        listening.close()
    await asyncio.sleep(_GRACE)  # for requests of those who came until now
    server.should_exit = True
    await asyncio.gather(serving, rpc.stop(_LONGEST_STOP) if rpc else asyncio.sleep(0))
    await service.stop()
    log("stopped")


async def _open_rpc(
    service: Service, access: Access, address: _Address
) -> tuple[grpc.aio.Server | None, int | None]:
    if address.grpc_port is None:
        return None, None
    tls = None
    if address.certificate is not None and address.key is not None:
        pair = (address.key.read_bytes(), address.certificate.read_bytes())
        tls = grpc.ssl_server_credentials([pair])
    host = f"[{address.host}]" if ":" in address.host else address.host
    place = f"{host}:{address.grpc_port}"
    try:
        for tried in _bind(address.host, address.grpc_port):
            tried.close()  # gRPC would complain on standard error
        return await open_rpc(service, access, place, tls)
    except (OutputError, RuntimeError) as error:
        raise OutputError(f"{place} cannot be listened at for gRPC; see --grpc-port") from error


def _bind(host: str, port: int) -> list[socket.socket]:
    """Sockets at an address. OutputError where it cannot be had."""
    found: list[socket.socket] = []
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in places:
            place = where if port or not found else (where[0], found[0].getsockname()[1])
            found.append(socket.create_server(place[:2], family=family, backlog=1024))
    except OSError as error:
        for one in found:
            one.close()
        raise OutputError(f"{host}:{port} cannot be listened at: {error.strerror}") from error
    return found


def _config(application: ASGIApp, address: _Address) -> uvicorn.Config:
    return uvicorn.Config(
        application, http=_Protocol, ws="websockets-sansio", lifespan="off", loop="none",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        ws_max_size=Limits().message, timeout_keep_alive=75,
        timeout_graceful_shutdown=_LONGEST_STOP,
        ssl_certfile=address.certificate, ssl_keyfile=address.key,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to us: it would end the process by the one it caught."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with bounds for what comes before a request is whole, which it has none for."""

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0
    """Bytes of the headers so far; None: they are whole, what comes is the body."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._close_after(_HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
            if self._timer is None:
                self._close_after(_HEADER_SECONDS)
        super().data_received(data)
        if self._head is not None and self._head > _HEADER_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._head = None
        self._close_after(_BODY_SECONDS)
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        self._head = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._head is None:
            # Refused before all of the body was there, which is read and forgotten.
            self._close_after(_REFUSED_SECONDS)
        super().on_response_complete()

    def _close_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


main = entry_point(app, "ifmmin-serve")

if __name__ == "__main__":
    sys.exit(main())
