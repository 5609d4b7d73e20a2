"""Blendshapes: 52 numbers a face by MediaPipe's FaceLandmarker, of pictures, videos and cameras.

How far brows, lids, cheeks, jaw and lips are moved, each 0 to 1. The model is a file of the user's
own, `face_landmarker.task` from its publisher; nothing is downloaded. Each frame is looked at by
itself, so its numbers do not depend on those before.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..console import printable
from ..errors import BundleError, InputError, one_line
from ..files import open_regular
from ..process import unforked
from ..validate import as_numbers
from .base import Features, State, require_state
from .spec import FileEntry, FrontEndSpec, Read

DIM = 52
FRAME_RATE = 10.0
"""Frames of a video or camera that are looked at, a second."""
_FILE_BYTES = 1 << 40
_SILENT = (0, 10, 33)
"""The last MediaPipe that calls nobody; later ones send figures about their use to Google."""
_INSTALL = "pip install 'ifmmin[face]'"

Picture = NDArray[np.uint8]
"""(H, W, 3), red, green, blue."""


def specify(task: bytes) -> FrontEndSpec:
    """The specification of this front-end with the content of a `face_landmarker.task`."""
    return FrontEndSpec(
        kind="blendshapes",
        version=1,
        dim=DIM,
        frame_rate=FRAME_RATE,
        features="MediaPipe face blendshapes, 0 to 1",
        files={"task": FileEntry.of("face_landmarker.task", task)},
        licence="Apache-2.0",
    )


def open(spec: FrontEndSpec, read: Read, threads: int = 1) -> Blendshapes:
    """The front-end of a specification. threads: MediaPipe takes as many as it likes.

    Raises BundleError for one of other make or a file that is no task, InputError where MediaPipe
    is not installed.
    """
    fits = (spec.version, spec.dim, spec.frame_rate, spec.settings) == (1, DIM, FRAME_RATE, {})
    if not fits or list(spec.files) != ["task"]:
        raise BundleError(
            f"front-end {spec.identity}: this version of ifmmin has blendshapes version 1 alone, "
            f"{DIM} numbers {FRAME_RATE:g} times a second, with one file, the task"
        )
    return Blendshapes(spec, read(spec.files["task"]))


class Blendshapes:
    """Blendshapes of the face in a picture; of several the most conspicuous one.

    A signal is a picture (H, W, 3) or several (N, H, W, 3) as uint8 in red, green, blue, or the
    path of a picture or video. Frames without a face are left out.
    """

    def __init__(self, spec: FrontEndSpec, task: bytes) -> None:
        self._spec = spec
        self._mediapipe = _mediapipe()
        options = self._mediapipe.tasks.vision.FaceLandmarkerOptions(
            base_options=self._mediapipe.tasks.BaseOptions(model_asset_buffer=task),
            output_face_blendshapes=True,
        )
        try:
            with unforked(silent=True):
                self._landmarker = self._mediapipe.tasks.vision.FaceLandmarker.create_from_options(
                    options
                )
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"blendshapes: the file is no face_landmarker.task ({one_line(error)}); take it "
                "from its publisher"
            ) from error
        # At the end of the process it would be too late: Python has stopped pools of threads then.
        threading._register_atexit(  # type: ignore[attr-defined]
            partial(_close, weakref.ref(self._landmarker))
        )

    def describe(self) -> FrontEndSpec:
        """What it is."""
        return self._spec

    def whole(self, signal: Any) -> Features:
        """Features (T, 52), T frames with a face. Raises InputError for what is no picture."""
        return self.stream(signal, last=True)

    def stream(self, signal: Any, *, last: bool = False) -> Features:
        """Those of these pictures: each is complete by itself."""
        rows = [row for picture in self._pictures(signal) for row in self._faces(picture)]
        return np.array(rows, np.float32).reshape(-1, DIM)

    def reset(self, state: State | None = None) -> None:
        """Nothing is kept from frame to frame."""
        if state is not None:
            require_state(state, {})

    def state(self) -> State:
        """Nothing."""
        return {}

    def _pictures(self, signal: Any) -> Iterator[Picture]:
        if isinstance(signal, (str, Path)):
            yield from pictures(signal)
            return
        array = as_numbers(signal, "pictures")
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
            raise InputError(
                f"pictures: got {array.dtype} {array.shape}, wanted uint8 (H, W, 3) or "
                "(N, H, W, 3) in red, green, blue"
            )
        yield from array[None] if array.ndim == 3 else array

    def _faces(self, picture: Picture) -> list[list[float]]:
        if not picture.size:
            return []
        image = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture)
        )
        found = self._landmarker.detect(image).face_blendshapes
        return [[shape.score for shape in face] for face in found]


def pictures(source: str | Path | int) -> Iterator[Picture]:
    """Pictures of a source: one of a picture, 10 a second of a video or camera.

    source: path of a picture or video, or the number of a camera (0 is the first), which never
    ends. Of each tenth of a second it is the one that is shown at its beginning. Needs OpenCV;
    raises InputError for what it cannot read.
    """
    cv2 = _opencv(source)
    if isinstance(source, int):
        yield from _camera(cv2, source)
        return
    try:
        open_regular(Path(source), InputError, _FILE_BYTES).close()  # no address, no device
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise InputError(
            f"{_shown(source)} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not cv2.haveImageReader(str(source)):
        yield from _video(cv2, source)
        return
    try:
        picture = cv2.imread(str(source), cv2.IMREAD_COLOR)
    except cv2.error as error:  # larger than OpenCV takes
        raise InputError(f"{_shown(source)} cannot be read: {one_line(error)}") from error
    if picture is None:
        raise InputError(f"{_shown(source)} is a damaged picture")
    yield picture[:, :, ::-1]


def _video(cv2: Any, path: str | Path) -> Iterator[Picture]:
    with unforked(silent=True):
        video = cv2.VideoCapture(str(path))
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        if not (video.isOpened() and 0 < rate < math.inf and video.grab()):
            raise InputError(
                f"{_shown(path)} is no picture or video that can be read; wanted such as JPEG, "
                "PNG, MP4 or AVI"
            )
        shown = taken = 0
        while shown == 0 or video.grab():
            shown += 1
            # The frame is shown until its successor is: for each tenth that begins by then.
            while taken * rate < shown * FRAME_RATE:
                taken += 1
                done, picture = video.retrieve()
                if done:
                    yield picture[:, :, ::-1]
    finally:
        video.release()


def _camera(cv2: Any, number: int) -> Iterator[Picture]:
    with unforked(silent=True):
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise InputError(f"camera {number} cannot be opened; is there one, and not in use?")
        due = time.monotonic()
        while camera.grab():
            if time.monotonic() < due:
                continue
            due = max(due + 1 / FRAME_RATE, time.monotonic())
            done, picture = camera.retrieve()
            if done:
                yield picture[:, :, ::-1]
        raise InputError(f"camera {number} gives no more pictures; was it taken away?")
    finally:
        camera.release()


def _opencv(source: object) -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no lines of its decoders'
    try:
        return import_module("cv2")
    except (ImportError, OSError) as error:
        raise InputError(
            f"{_shown(source)}: pictures of files and cameras need OpenCV ({one_line(error)}); "
            f"{_INSTALL}, or give arrays"
        ) from error


def _close(landmarker: weakref.ref[Any]) -> None:
    if (alive := landmarker()) is not None:
        alive.close()


@cache
def _mediapipe() -> Any:
    try:
        mediapipe = import_module("mediapipe")  # slow to import
    except (ImportError, OSError) as error:
        raise InputError(f"blendshapes need MediaPipe ({one_line(error)}); {_INSTALL}") from error
    installed = version("mediapipe")
    if tuple(int(part) for part in installed.split(".")[:3] if part.isdigit()) > _SILENT:
        logging.getLogger("ifmmin.blendshapes").warning(
            "mediapipe %s sends figures about its use to Google; %s and earlier do not: %s",
            installed, ".".join(map(str, _SILENT)), _INSTALL,
        )  # fmt: skip
    return mediapipe


def _shown(source: object) -> str:
    return f"camera {source}" if isinstance(source, int) else printable(str(source))
