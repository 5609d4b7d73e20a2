"""Blendshapes: of a picture, a video, arrays; MediaPipe kept silent and closed."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.frontends import blendshapes
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.spec import FrontEndSpec

pytestmark = pytest.mark.skipif(
    find_spec("mediapipe") is None, reason="mediapipe is not installed: the extra face"
)
NAMES = {"browInnerUp": 3, "jawOpen": 25, "mouthSmileLeft": 44, "mouthSmileRight": 45}
"""Places of some in the published order of the 52."""


@pytest.fixture(scope="module")
def task() -> Path:
    path = Path(__file__).parents[4] / "shared" / "data" / "face" / "face_landmarker.task"
    if not path.exists():
        pytest.skip("face_landmarker.task is not at ../shared/data/face")
    return path


@pytest.fixture(scope="module")
def frontend(task: Path) -> FrontEnd:
    content = task.read_bytes()
    return open_frontend(blendshapes.specify(content), lambda entry: content)


@pytest.fixture(scope="module")
def face() -> NDArray[np.uint8]:
    """A woman in a space suit, who smiles (NASA, public domain)."""
    picture: NDArray[np.uint8] = pytest.importorskip("skimage.data").astronaut()
    return picture


@pytest.fixture
def cv2() -> Any:
    return pytest.importorskip("cv2")


def test_a_face_smiles(frontend: FrontEnd, face: NDArray[np.uint8]) -> None:
    shapes = frontend.whole(face)
    assert shapes.shape == (1, 52)
    assert shapes.dtype == np.float32
    assert ((shapes >= 0) & (shapes <= 1)).all()
    smiling = [NAMES["mouthSmileLeft"], NAMES["mouthSmileRight"]]
    assert shapes[0, smiling].min() > 0.5
    assert shapes[0, [NAMES["browInnerUp"], NAMES["jawOpen"]]].max() < 0.2
    # Red and blue exchanged are another picture.
    assert not np.array_equal(frontend.whole(face[..., ::-1]), shapes)


def test_frames_without_a_face_are_left_out(frontend: FrontEnd, face: NDArray[np.uint8]) -> None:
    one = frontend.whole(face)
    three = frontend.whole(np.stack([face, np.zeros_like(face), face]))
    np.testing.assert_array_equal(three, np.concatenate([one, one]))
    assert frontend.whole(np.zeros_like(face)).shape == (0, 52)
    assert frontend.whole(face[:0]).shape == frontend.whole(face[None][:0]).shape == (0, 52)


def test_a_stream_gives_what_the_whole_does(frontend: FrontEnd, face: NDArray[np.uint8]) -> None:
    pictures = np.stack([face, face[:, ::-1], np.roll(face, 20, axis=1)])
    frontend = copy.copy(frontend)
    frontend.reset(frontend.state())
    streamed = [frontend.stream(picture) for picture in pictures[:2]]
    streamed.append(frontend.stream(pictures[2:], last=True))
    np.testing.assert_array_equal(np.concatenate(streamed), frontend.whole(pictures))
    with pytest.raises(InputError, match="state of a front-end"):
        frontend.reset({"more": np.zeros(1)})


def test_a_file_is_read_as_a_picture(
    frontend: FrontEnd, face: NDArray[np.uint8], cv2: Any, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), face[..., ::-1])
    np.testing.assert_array_equal(frontend.whole(tmp_path / "face.png"), frontend.whole(face))


@pytest.mark.parametrize("rate", [25, 30, 8])
def test_of_a_video_ten_frames_a_second_are_taken(cv2: Any, tmp_path: Path, rate: int) -> None:
    """Each the one that is shown at the beginning of its tenth: told by its brightness."""
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (64, 64))
    for index in range(2 * rate):
        video.write(np.full((64, 64, 3), 4 * index, np.uint8))
    video.release()
    shown = [round(float(picture.mean()) / 4) for picture in blendshapes.pictures(path)]
    assert shown == [int(rate * tenth / 10) for tenth in range(20)]


def test_a_video_with_a_face(
    frontend: FrontEnd, face: NDArray[np.uint8], cv2: Any, tmp_path: Path
) -> None:
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, face.shape[:2])
    for index in range(10):
        video.write(face[..., ::-1] if index < 5 else np.zeros_like(face))
    video.release()
    shapes = frontend.whole(path)
    assert shapes.shape == (5, 52)
    np.testing.assert_allclose(shapes, np.repeat(frontend.whole(face), 5, axis=0), atol=0.3)


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        (np.zeros((8, 8, 3)), r"got float64 \(8, 8, 3\), wanted uint8"),
        (np.zeros((8, 8), np.uint8), r"got uint8 \(8, 8\), wanted uint8 \(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), "wanted uint8"),
        (None, "pictures: got"),
        (0, "pictures: got"),
        ("nowhere.mp4", "nowhere.mp4 cannot be read: No such file"),
        ("http://localhost:1/clip.mp4", "cannot be read: No such file"),
        ("/dev/video0\0", "cannot be read"),
        (Path(__file__), "is no picture or video that can be read"),
        (Path(__file__).parent, "is a directory"),
    ],
)
def test_what_is_no_picture_is_refused(
    frontend: FrontEnd, cv2: Any, signal: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        frontend.whole(signal)
    assert str(refused.value).isprintable()
    assert capfd.readouterr().err == ""


def test_a_damaged_picture_or_video_is_refused(
    face: NDArray[np.uint8], cv2: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    video.write(face[:64, :64].copy())
    video.release()
    for name, content in (
        ("face.png", cv2.imencode(".png", face)[1].tobytes()),
        ("clip.avi", (tmp_path / "x.avi").read_bytes()),
    ):
        (tmp_path / name).write_bytes(content[:50])
        with pytest.raises(InputError, match=r"damaged picture|no picture or video"):
            list(blendshapes.pictures(tmp_path / name))
    assert capfd.readouterr().err == ""


def test_a_camera_that_is_not_there(cv2: Any) -> None:
    with pytest.raises(InputError, match="camera 93 cannot be opened"):
        next(blendshapes.pictures(93))


def test_a_camera_gives_its_newest_picture(monkeypatch: pytest.MonkeyPatch, cv2: Any) -> None:
    """Ten a second of one that gives 30, and a line when it is taken away."""
    clock = [0.0]

    class Camera:
        def __init__(self, number: int) -> None:
            self.grabbed = -1

        def isOpened(self) -> bool:
            return True

        def grab(self) -> bool:
            clock[0] += 1 / 30
            self.grabbed += 1
            return self.grabbed < 60

        def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
            return True, np.full((2, 2, 3), self.grabbed, np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    taken: list[int] = []
    with pytest.raises(InputError, match="camera 0 gives no more pictures"):
        taken += (int(picture[0, 0, 0]) for picture in blendshapes.pictures(0))
    assert len(taken) in (20, 21)
    assert set(np.diff(taken)) <= {2, 3, 4}


def test_a_file_that_is_no_task_is_refused() -> None:
    spec = blendshapes.specify(b"not a task")
    with pytest.raises(BundleError, match=r"the file is no face_landmarker.task \(.*\); take it"):
        open_frontend(spec, lambda entry: b"not a task")


def test_a_specification_of_another_is_refused() -> None:
    other = FrontEndSpec(kind="blendshapes", version=1, dim=51, frame_rate=10.0, features="")
    with pytest.raises(BundleError, match="blendshapes version 1 alone"):
        open_frontend(other, lambda entry: b"")


def test_it_is_silent_from_beginning_to_end(task: Path, tmp_path: Path) -> None:
    """Nothing on standard error, at the end of the process neither, and nobody is called."""
    script = tmp_path / "see.py"
    script.write_text(
        "import sys, pathlib, numpy as np\n"
        "from ifmmin.runtime.frontends.blendshapes import open, specify\n"
        "content = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "frontend = open(specify(content), lambda entry: content)\n"
        "frontend.whole(np.zeros((64, 64, 3), np.uint8))\n"
    )
    words, record = [sys.executable, str(script), str(task)], tmp_path / "record"
    if shutil.which("strace"):
        words = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmmsg", "-o", str(record),
                 *words]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    if version("mediapipe").split(".") > ["0", "10", "33"]:
        assert re.fullmatch(
            r"mediapipe .* sends figures about its use to Google; .*\n", done.stderr
        )
        return
    assert done.stderr == ""
    if record.exists():
        assert "AF_INET" not in record.read_text()
