"""Front-end of words: what a text becomes, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec

onnx = pytest.importorskip("onnx")

PIECES = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "so", "##rry", "glad", "!")
TABLE = np.random.default_rng(3).standard_normal((len(PIECES), 4)).astype(np.float32)
SETTINGS = {"lower_case": True, "longest": 8}


def _graph() -> bytes:
    """A row of a table for each number: states that show which pieces came in."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["states"])],
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["T", 4])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _open(vocabulary: bytes | None = None, settings: dict[str, Any] | None = None) -> FrontEnd:
    contents = {
        "graph": _graph(),
        "vocabulary": "".join(f"{piece}\n" for piece in PIECES).encode()
        if vocabulary is None
        else vocabulary,
    }
    files = {role: FileEntry.of(role, content) for role, content in contents.items()}
    spec = FrontEndSpec(
        kind="minilm", version=1, dim=4, frame_rate=None, features="made",
        settings=SETTINGS if settings is None else settings, files=files,
    )  # fmt: skip
    return open_frontend(spec, lambda entry: contents[entry.file])


def _rows(*pieces: str) -> np.ndarray:
    return TABLE[[PIECES.index(piece) for piece in pieces]]


def test_a_text_becomes_the_states_of_its_pieces_between_those_of_its_ends() -> None:
    states = _open().whole("Sorry! \U0001f600")
    assert states.dtype == np.float32
    wanted = _rows("[CLS]", "so", "##rry", "!", "[UNK]", "[SEP]")
    np.testing.assert_array_equal(states, wanted)


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b\x00"])
def test_a_text_without_words_has_no_frames(text: str) -> None:
    assert _open().whole(text).shape == (0, 4)


def test_ten_thousand_words_are_cut_and_that_is_said_once(caplog: Any) -> None:
    words = _open()
    with caplog.at_level(logging.WARNING):
        assert len(words.whole("glad " * 6)) == 8
        assert not caplog.records
        for _ in range(3):
            wanted = _rows("[CLS]", *["glad"] * 6, "[SEP]")
            np.testing.assert_array_equal(words.whole("glad " * 10_000), wanted)
    assert [record.getMessage().startswith("a text has more than the 8") for record in
            caplog.records] == [True]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"glad", "got bytes, wanted text"),
        (None, "got NoneType, wanted text"),
        (b"gl\xe4d".decode(errors="surrogateescape"), "character 3 .* another encoding"),
    ],
)
def test_what_is_no_text_is_refused_whole_and_streamed(given: Any, said: str) -> None:
    words = _open()
    words.stream("so")
    for ask in (words.whole, words.stream):
        with pytest.raises(InputError, match=said):
            ask(given)
    np.testing.assert_array_equal(words.stream("", last=True), _rows("[CLS]", "so", "[SEP]"))


def test_a_stream_has_the_frames_of_the_whole_when_it_is_over() -> None:
    words = _open()
    assert words.stream("so").shape == words.stream("rry gl").shape == (0, 4)
    kept = words.state()
    whole = words.whole("sorry glad!")
    np.testing.assert_array_equal(words.stream("ad!", last=True), whole)
    assert words.stream("", last=True).shape == (0, 4)
    other = _open()
    other.reset(kept)
    np.testing.assert_array_equal(other.stream("ad!", last=True), whole)
    words.stream("glad")
    words.reset()
    assert words.stream("", last=True).shape == (0, 4)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"text": np.zeros(2, np.float32)},
        {"text": np.array([0xFF], np.uint8)},
        {"text": np.zeros(1, np.uint8), "more": np.zeros(1)},
    ],
)
def test_a_state_of_something_else_is_refused_and_nothing_replaced(state: Any) -> None:
    words = _open()
    words.stream("glad")
    with pytest.raises(InputError, match="state of a front-end"):
        words.reset(state)
    np.testing.assert_array_equal(words.stream("", last=True), _rows("[CLS]", "glad", "[SEP]"))


@pytest.mark.parametrize("vocabulary", [b"", b"so\nglad\n", b"\xff\n"])
def test_what_is_no_vocabulary_is_told(vocabulary: bytes) -> None:
    with pytest.raises(BundleError, match="vocabulary"):
        _open(vocabulary)


@pytest.mark.parametrize("settings", [{}, {"longest": 2, "lower_case": True}, {"longest": 8}])
def test_settings_without_what_it_goes_by_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="lack longest or lower_case"):
        _open(settings=settings)
