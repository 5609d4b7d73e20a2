"""Listening over a WebSocket: sound, words and faces in as they come, answers out.

What is sent and received stands in docs/listen.md, message by message.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..bundle import Bundle
from ..errors import IfmminError, InputError
from ..files import JSON_ERRORS
from ..frontends.sound import HIGHEST, LOWEST
from ..modality import Modality
from ..recognizer import Recognizer
from ..stream.options import StreamOptions
from .request import Limits, RefusedError
from .service import Service

Result = TypeVar("Result")
_PIECE = 0.1
"""Seconds of sound that are heard together, where no answer is due sooner."""
_MISTAKES = 20
"""Messages that are none, after which a client is let go."""
_BUSY_SECONDS = 0.05
"""From one try to the next where too many wait."""
GOING_AWAY, POLICY, TRY_LATER = 1001, 1008, 1013
"""Codes by which a WebSocket is closed."""


class _Start(msgspec.Struct, tag="start", forbid_unknown_fields=True):
    rate: int = 16000
    channels: int = 1
    every: float = 0.25
    window: float | None = None
    min_quality: dict[str, float] = {}


class _Text(msgspec.Struct, tag="text", forbid_unknown_fields=True):
    text: str | None


class _Face(msgspec.Struct, tag="face", forbid_unknown_fields=True):
    csv: str | None


class _Features(msgspec.Struct, tag="features", forbid_unknown_fields=True):
    modality: str
    frames: list[list[float]]


class _Quality(msgspec.Struct, tag="quality", forbid_unknown_fields=True):
    modality: str
    quality: float


class _Drop(msgspec.Struct, tag="drop", forbid_unknown_fields=True):
    modality: str


class _Restore(msgspec.Struct, tag="restore", forbid_unknown_fields=True):
    modality: str


class _Clear(msgspec.Struct, tag="clear", forbid_unknown_fields=True):
    modality: str


class _Reset(msgspec.Struct, tag="reset", forbid_unknown_fields=True):
    pass


class _Predict(msgspec.Struct, tag="predict", forbid_unknown_fields=True):
    pass


class _Snapshot(msgspec.Struct, tag="snapshot", forbid_unknown_fields=True):
    pass


class _Resume(msgspec.Struct, tag="resume", forbid_unknown_fields=True):
    snapshot: str


class _Stop(msgspec.Struct, tag="stop", forbid_unknown_fields=True):
    pass


_Message = (
    _Start | _Text | _Face | _Features | _Quality | _Drop | _Restore | _Clear | _Reset | _Predict
    | _Snapshot | _Resume | _Stop
)  # fmt: skip
_DECODER = msgspec.json.Decoder(_Message)
_ENCODE = msgspec.json.Encoder().encode
Answer = dict[str, Any]


class Listener:
    """One who listens: a stream, and when its answers are due. Not for two threads at once."""

    def __init__(self, recognizer: Recognizer, limits: Limits) -> None:
        self._recognizer, self._limits = recognizer, limits
        self._start = _Start()
        self._stream = recognizer.stream()
        self._poor: set[Modality] = set()
        """Left out for their quality."""
        self._dropped: set[Modality] = set()
        """Left out because the client said so."""
        self._sound = bytearray()
        """What was not heard yet."""
        self._begun = False
        self._seconds, self._due = 0.0, 0.0

    def ready(self) -> Answer:
        """What a client is told first."""
        bundle: Bundle = self._recognizer.predictor.bundle
        manifest = bundle.manifest
        fronts = {m: manifest.modalities[m].frontend for m in self._recognizer.modalities}
        return {
            "type": "ready", "labels": list(self._recognizer.labels),
            "modalities": {
                m.value: {
                    "name": m.word, "dim": spec.dim,
                    "frontend": None if (found := fronts.get(m)) is None else found.kind,
                }
                for m, spec in manifest.modalities.items()
            },
            "patterns": [str(pattern) for pattern in bundle.stream_patterns],
            "licence": manifest.licence,
        }  # fmt: skip

    def hear(self, content: bytes) -> Answer | None:
        """The next samples, 16-bit little-endian; an answer where one is due."""
        if Modality.A not in self._recognizer.modalities:
            raise InputError("this bundle takes no sound")
        size = 2 * self._start.channels
        if len(content) % size:
            raise InputError(f"got {len(content)} bytes of sound, wanted a multiple of {size}")
        if not self._begun:
            self._begun, self._due = True, self._start.every
        self._sound += content
        rate = self._start.rate * size
        self._seconds += len(content) / rate
        due = self._seconds + 1e-9 >= self._due
        if due or len(self._sound) >= _PIECE * rate:
            self._listen()
        if not due:
            return None
        self._due += self._start.every * max(1, (self._seconds - self._due) // self._start.every)
        return self.predict()

    def take(self, message: Any) -> Answer | None:
        """What a message is answered with; InputError where it cannot be done."""
        if not isinstance(message, _Start):
            self._listen()  # before what was said after it
        answer: Answer | None = getattr(self, f"_on_{type(message).__name__.strip('_').lower()}")(
            message
        )
        return answer

    def predict(self) -> Answer:
        """The answer now."""
        self._listen()
        told: Answer = {"type": "update", "at": round(self._seconds, 3)}
        try:
            found = self._stream.predict()
        except InputError as error:
            return told | {"pattern": None, "label": None, "reason": str(error)}
        content = found.to_dict()
        kept = ("pattern", "label", "probabilities", "absent", "seconds")
        frames = {m.value: count for m, count in self._stream.frames.items()}
        return told | {name: content[name] for name in kept} | {"frames": frames}

    def _listen(self) -> None:
        if self._sound:
            samples = np.frombuffer(bytes(self._sound), "<i2")
            self._sound.clear()
            self._stream.push_sound(samples.reshape(-1, self._start.channels), self._start.rate)

    def _on_start(self, message: _Start) -> None:
        if self._begun:
            raise InputError("start: sound has begun; send it first, or after a reset")
        if not LOWEST <= message.rate <= HIGHEST:
            raise InputError(f"start: got rate {message.rate}, wanted {LOWEST} to {HIGHEST} Hz")
        if not 1 <= message.channels <= 8:
            raise InputError(f"start: got {message.channels} channels, wanted 1 to 8")
        if not 0.02 <= message.every <= 60:
            raise InputError(f"start: got every {message.every:g}, wanted 0.02 to 60 seconds")
        for letter in message.min_quality:
            Modality.of(letter)
        options = StreamOptions(window=message.window)
        self._stream = self._recognizer.stream(options)
        self._start = message
        self._show_left_out()

    def _on_text(self, message: _Text) -> Answer:
        if Modality.T not in self._recognizer.modalities:
            raise InputError("this bundle takes no text")
        if message.text is not None and len(message.text) > self._limits.text:
            raise InputError(f"text: at most {self._limits.text} characters are taken")
        self._stream.set_text(message.text)
        return self.predict()

    def _on_face(self, message: _Face) -> Answer:
        kinds = {m: s.frontend for m, s in self._modalities().items()}
        spec = kinds.get(Modality.V)
        if spec is None or spec.kind != "openface":
            raise InputError("this bundle takes no CSV of OpenFace")
        found = (
            None if message.csv is None
            else self._recognizer.frontend(Modality.V).whole(message.csv.encode())
        )  # fmt: skip
        self._stream.clear("v")
        if found is not None and len(found):
            self._stream.features.push({"v": found})
        return self.predict()

    def _on_features(self, message: _Features) -> Answer:
        modality = Modality.of(message.modality)
        if len(message.frames) > self._limits.frames:
            raise InputError(f"features: at most {self._limits.frames} frames are taken at once")
        try:
            with np.errstate(over="ignore"):  # too large is told by who takes it
                frames = np.array(message.frames, np.float32)
        except ValueError:
            raise InputError("features: wanted frames of equal numbers of features") from None
        self._stream.features.push({modality.value: frames})
        return self.predict()

    def _on_quality(self, message: _Quality) -> Answer | None:
        modality = self._known(message.modality)
        least = self._start.min_quality.get(modality.value)
        if least is None:
            raise InputError(f"quality: start named no min_quality for {modality}")
        poor = not message.quality >= least
        if poor == (modality in self._poor):
            return None
        (self._poor.add if poor else self._poor.discard)(modality)
        self._show_left_out()
        return self.predict()

    def _on_drop(self, message: _Drop) -> Answer:
        self._dropped.add(self._known(message.modality))
        self._show_left_out()
        return self.predict()

    def _on_restore(self, message: _Restore) -> Answer:
        self._dropped.discard(self._known(message.modality))
        self._show_left_out()
        return self.predict()

    def _on_clear(self, message: _Clear) -> Answer:
        self._stream.clear(self._known(message.modality).value)
        return self.predict()

    def _on_reset(self, message: _Reset) -> None:
        self._stream.reset()
        self._begun, self._seconds = False, 0.0
        self._dropped.clear()
        self._poor.clear()
        self._show_left_out()

    def _on_predict(self, message: _Predict) -> Answer:
        return self.predict()

    def _on_snapshot(self, message: _Snapshot) -> Answer:
        return {"type": "snapshot", "snapshot": base64.b64encode(self._stream.snapshot()).decode()}

    def _on_resume(self, message: _Resume) -> Answer:
        try:
            content = base64.b64decode(message.snapshot, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("resume: wanted the base64 of a snapshot") from None
        self._stream.resume(content)
        self._show_left_out()
        return self.predict()

    def _on_stop(self, message: _Stop) -> Answer:
        return self.predict() | {"final": True}

    def _modalities(self) -> Mapping[Modality, Any]:
        return self._recognizer.predictor.bundle.manifest.modalities

    def _known(self, letter: str) -> Modality:
        modality = Modality.of(letter)
        if modality not in self._modalities():
            raise InputError(f"this bundle has no {modality}")
        return modality

    def _show_left_out(self) -> None:
        for modality in self._modalities():
            left_out = modality in self._dropped | self._poor
            (self._stream.features.drop if left_out else self._stream.features.restore)(
                modality.value
            )


async def listen(websocket: WebSocket, service: Service) -> None:
    """Serve one who listens until it stops, goes away, or the server ends."""
    await websocket.accept()
    if service.draining.is_set():
        await websocket.close(GOING_AWAY)
        return
    if service.listeners >= service.limits.sequences:
        full = "too many listen already; try later"
        await _tell(websocket, {"type": "error", "message": full})
        await websocket.close(TRY_LATER, full)
        return
    service.listeners += 1
    conversation = _Conversation(websocket, service)
    watch = asyncio.create_task(conversation.end_with_server())
    try:
        # Who goes away is told nothing, and Starlette raises RuntimeError for what is sent to him.
        with suppress(WebSocketDisconnect, RuntimeError):
            await conversation.go()
    finally:
        watch.cancel()
        service.listeners -= 1


class _Conversation:
    """Messages of one listener, in order."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service
        self._listener: Listener | None = None
        self._mistakes = 0

    async def go(self) -> None:
        """Answer messages until the end."""
        service = self._service
        self._listener = await self._run(lambda: Listener(service.recognizer, service.limits))
        await _tell(self._websocket, self._listener.ready())
        while True:
            try:
                received = await asyncio.wait_for(self._websocket.receive(), service.limits.idle)
            except asyncio.TimeoutError:
                await self._end(POLICY, f"nothing came for {service.limits.idle:g} seconds")
                return
            if received["type"] == "websocket.disconnect":
                return
            since = time.perf_counter()
            try:
                answer, last = await self._answer(received)
            except IfmminError as error:
                self._mistakes += 1
                await _tell(self._websocket, {"type": "error", "message": str(error)})
                if self._mistakes >= _MISTAKES:
                    await self._end(POLICY, "too many messages that cannot be taken")
                    return
                continue
            if answer is not None:
                if answer["type"] == "update":
                    answer["latency_ms"] = round(1000 * (time.perf_counter() - since), 2)
                await _tell(self._websocket, answer)
            if last:
                await self._websocket.close()
                return

    async def end_with_server(self) -> None:
        """A last answer, and the end, when the server is about to stop."""
        await self._service.draining.wait()
        if self._listener is None:
            return
        with suppress(IfmminError, RuntimeError, WebSocketDisconnect):
            answer = await self._run(self._listener.predict)
            await _tell(self._websocket, answer | {"final": True})
        await self._end(GOING_AWAY, "the server stops")

    async def _answer(self, received: Mapping[str, Any]) -> tuple[Answer | None, bool]:
        """The answer, and whether it is the last."""
        listener = self._listener
        assert listener is not None  # it was made before anything is received
        content = received.get("bytes")
        if content is not None:
            return await self._run(lambda: listener.hear(content)), False
        try:
            message = _DECODER.decode(received.get("text") or "")
        except JSON_ERRORS as error:
            raise InputError(f"this is no message: {error}") from error
        return await self._run(lambda: listener.take(message)), isinstance(message, _Stop)

    async def _run(self, work: Callable[[], Result]) -> Result:
        """In a worker's thread, one after the other; waits where too many do."""
        while True:
            try:
                return await self._service.run(work, lane=id(self))
            except RefusedError as error:
                if error.status != 429:
                    raise
                await asyncio.sleep(_BUSY_SECONDS)

    async def _end(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._websocket.close(code, reason)


async def _tell(websocket: WebSocket, message: Answer) -> None:
    await websocket.send_text(_ENCODE(message).decode())
