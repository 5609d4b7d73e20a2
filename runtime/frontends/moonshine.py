"""Moonshine: the words of English speech, by the tiny model of Useful Sensors on ONNX Runtime.

Its weights lie in the wheel moonshine-voice==0.0.73 (MIT; Jeffries et al. 2024), whose own code is
not run. An encoder of sound and a decoder of one token at a time, which keeps keys and values.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import read_regular
from .base import session
from .sound import RATE, as_sound, mono

_FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
_WHEEL = "pip install 'ifmmin[asr]' (moonshine-voice==0.0.73; other versions have no weights)"
_BEGIN, _END = 1, 2
_TOKENS_PER_SECOND = 6.5
"""At most, by Moonshine's authors: what runs on longer repeats itself."""
_SHORTEST = RATE // 10
_LONGEST, _SEARCHED = 15 * RATE, 5 * RATE
"""Samples of one piece, whose time grows with its square, and of them the last ones: at their
quietest place a longer sound is cut."""
_QUIET = RATE // 20


def transcribe(sound: Any, threads: int = 1) -> str:
    """The words of a Sound, samples and rate, or a file; empty where there are none.

    Raises InputError for what is no sound, and without the weights. The model is loaded once.
    """
    return _model(threads, os.getpid()).transcribe(mono(as_sound(sound)))


@cache
def _model(threads: int, process: int) -> _Moonshine:
    """That of this process: a session is of no use in a child that is forked."""
    return _Moonshine(threads)


class _Moonshine:
    """Encoder, decoder and vocabulary."""

    def __init__(self, threads: int) -> None:
        encoder, decoder, tokens = (_content(name) for name in _FILES)
        self._encoder, self._decoder = session(encoder, threads), session(decoder, threads)
        self._tokens = _tokens(tokens)
        self._kept = {
            given.name: np.zeros((1, given.shape[1], 0, given.shape[3]), np.float32)
            for given in self._decoder.get_inputs()
            if given.name.startswith("past_key_values.")
        }
        self._outputs = [given.name for given in self._decoder.get_outputs()]

    def transcribe(self, samples: NDArray[np.float32]) -> str:
        """The words of samples (N,) at 16 kHz, of any length."""
        texts = []
        while len(samples) > _LONGEST:
            at = _quietest(samples[:_LONGEST])
            texts.append(self._piece(samples[:at]))
            samples = samples[at:]
        texts.append(self._piece(samples))
        return " ".join(filter(None, texts))

    def _piece(self, samples: NDArray[np.float32]) -> str:
        if len(samples) < _SHORTEST or not samples.any():
            return ""
        mask = np.ones((1, len(samples)), np.int64)  # of samples in the decoder too
        heard = {"input_values": samples[None], "attention_mask": mask}
        (states,) = self._encoder.run(None, heard)
        given = {"encoder_hidden_states": states, "encoder_attention_mask": mask, **self._kept}
        token, spoken = _BEGIN, []
        for step in range(int(len(samples) / RATE * _TOKENS_PER_SECOND) + 1):
            given |= {"input_ids": np.array([[token]]), "use_cache_branch": np.array([step > 0])}
            made = dict(zip(self._outputs, self._decoder.run(None, given), strict=True))
            token = int(made["logits"][0, -1].argmax())
            if token == _END:
                break
            spoken.append(self._tokens[token])
            for name in self._kept:
                if step == 0 or ".decoder." in name:  # those of the encoder stay
                    given[name] = made[name.replace("past_key_values", "present")]
        return b"".join(spoken).decode("utf-8", "replace").replace("\u2581", " ").strip()


def _content(name: str) -> bytes:
    found = find_spec("moonshine_voice")  # not imported: it brings a client of the network
    places = (found and found.submodule_search_locations) or []
    for place in places:
        try:
            return read_regular(Path(place, "assets", "tiny-en", name), InputError)
        except OSError:
            continue
    raise InputError(f"recognising words needs the weights of Moonshine: {_WHEEL}")


def _tokens(content: bytes) -> list[bytes]:
    """The vocabulary: each token behind a byte with its length."""
    tokens, place = [], 0
    while place < len(content):
        end = place + 1 + content[place]
        tokens.append(content[place + 1 : end])
        place = end
    return tokens


def _quietest(samples: NDArray[np.float32]) -> int:
    """Middle of the quietest twentieth of a second in the last part of `samples`."""
    first = len(samples) - _SEARCHED
    power = np.square(samples[first:]).reshape(-1, _QUIET).sum(axis=1)
    return first + int(power.argmin()) * _QUIET + _QUIET // 2
