"""Fork: a child answers for itself, whatever its parent's threads were doing, and always ends."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from run_command import DIMS, noise, run_python

from ifmmin.runtime import BackendUnavailable, Predictor
from ifmmin.runtime.backends import make_backend
from ifmmin.runtime.backends.base import inherited

_START = f"""
import multiprocessing, os, signal, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which is the point
import numpy as np
from ifmmin.runtime import Predictor
given = {{m: np.random.default_rng(0).standard_normal((9, d)).astype(np.float32)
         for m, d in {DIMS}.items()}}

def in_child(work, seconds=20):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except SystemExit:  # a child of its own ends
            raise
        except BaseException:
            traceback.print_exc()
            os._exit(9)
        sys.exit(0)  # whose end of the interpreter must not hang either
    for _ in range(seconds * 100):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, f"a child ended with {{status}}"
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("a child hangs")
"""
_BUSY = """
bundle, threads, preload = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
predictor = Predictor(bundle, backend="onnxruntime-cpu", threads=threads, preload=preload)
wanted = predictor.predict(given).logits
stream = predictor.stream()
stream.push(given)
busy = True

def answer():
    while busy:
        predictor.predict(given)

def right(logits):
    assert np.abs(logits - wanted).max() < 1e-4

def work():
    found = []
    def some():
        for _ in range(10):
            found.append(predictor.predict(given).logits)
    both = [threading.Thread(target=some) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(found) == 20
    for logits in found:
        right(logits)
    right(predictor.predict_batch([given])[0].logits)
    own = predictor.stream()
    own.resume(stream.snapshot())
    right(own.predict().logits)
    try:
        stream.push(given)
        stream.predict()
    except Exception as error:
        assert "opened before its process was forked" in str(error), error
    else:
        raise AssertionError("a stream of the parent was used")
    in_grandchild()

def in_grandchild():
    in_child(lambda: right(predictor.predict(given).logits))

others = [threading.Thread(target=answer) for _ in range(3)]
for one in others:
    one.start()
try:
    for _ in range(4):
        in_child(work)
finally:
    busy = False
right(predictor.predict(given).logits)
right(stream.predict().logits)
"""


@pytest.mark.parametrize(("threads", "preload"), [(1, False), (2, True)])
def test_children_forked_beside_busy_threads(bundle: Path, threads: int, preload: bool) -> None:
    ran = run_python(_START + _BUSY, bundle, threads, preload)
    assert (ran.code, ran.err) == (0, ""), ran


_SIGNALS = """
from ifmmin.runtime import Recognizer
recognizer = Recognizer(backend="onnxruntime-cpu")
sound, text = sys.argv[1], "what a nice surprise"
wanted = recognizer.recognize(sound=sound, text=text)
stream = recognizer.stream()
stream.push_sound(np.ones(1600, np.float32))
kept, busy = stream.snapshot(), True

def answer():
    while busy:
        recognizer.recognize(sound=sound, text=text)

def work():
    found = recognizer.recognize(sound=sound, text=text)
    assert found.pattern == wanted.pattern
    assert np.abs(found.logits - wanted.logits).max() < 1e-4
    own = recognizer.stream()
    own.resume(kept)
    own.push_sound(np.ones(1600, np.float32))
    own.set_text(text)
    assert str(own.predict().pattern) == "t"

other = threading.Thread(target=answer)
other.start()
try:
    for _ in range(3):
        in_child(work)
finally:
    busy = False
work()
"""


def test_sound_and_words_in_forked_children(root: Path) -> None:
    ran = run_python(_START + _SIGNALS, root / "examples" / "recordings" / "sad.wav")
    assert (ran.code, ran.err) == (0, ""), ran


_METHODS = """
bundle, method = sys.argv[1:]
predictor = Predictor(bundle, backend="onnxruntime-cpu")
wanted = predictor.predict(given).logits
with multiprocessing.get_context(method).Pool(2) as pool:
    waiting = [pool.apply_async(predictor.predict, (given,)) for _ in range(6)]
    for each in waiting:
        assert np.abs(each.get(timeout=60).logits - wanted).max() < 1e-4
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(bundle: Path, method: str) -> None:
    ran = run_python(_START + _METHODS, bundle, method)
    assert (ran.code, ran.err) == (0, ""), ran


_OPENVINO = """
from ifmmin.runtime import BackendUnavailable
predictor = Predictor(sys.argv[1], backend="openvino")
predictor.predict(given)

def work():
    try:
        predictor.predict(given)
    except BackendUnavailable as error:
        assert "in use when this process was forked" in str(error), error
    else:
        raise AssertionError("it ran")
    backend = Predictor(sys.argv[1]).predict(given).backend
    assert backend == "onnxruntime-cpu", backend

in_child(work)
predictor.predict(given)
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_works_on_one_side_of_a_fork(bundle: Path, tmp_path: Path) -> None:
    script = f"import os\nos.environ['IFMMIN_CACHE'] = {str(tmp_path)!r}\n{_START}{_OPENVINO}"
    ran = run_python(script, bundle)
    assert (ran.code, ran.err) == (0, ""), ran


def test_a_backend_of_the_parent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifmmin.runtime.backends.base.inherited", {"tensorrt"})
    with pytest.raises(BackendUnavailable, match="tensorrt was in use when this process was fork"):
        make_backend("tensorrt")
    assert not inherited, "this process is no such child"


def test_a_copy_of_a_predictor_is_made_of_its_arguments(bundle: Path) -> None:
    chosen = Predictor(bundle, backend="onnxruntime-cpu", threads=2, preload=True)
    given = {m: noise(m) for m in "avt"}
    wanted = chosen.predict(given)
    for again in (pickle.loads(pickle.dumps(chosen)), copy.deepcopy(chosen), copy.copy(chosen)):
        assert again is not chosen
        assert again.requested == "onnxruntime-cpu"
        found = again.predict(given)
        assert np.array_equal(found.logits, wanted.logits)
        assert again.stream().pattern is None
    assert len(pickle.dumps(chosen)) < 10_000
    assert copy.deepcopy(wanted).label == pickle.loads(pickle.dumps(wanted)).label == wanted.label
    for own in (copy.deepcopy(chosen.bundle), pickle.loads(pickle.dumps(chosen.bundle))):
        assert own.manifest == chosen.bundle.manifest
        assert own.directory == chosen.bundle.directory
