"""Torch-free runtime: answers from a bundle of graphs, whichever modalities are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .bundle import Bundle
from .errors import (
    BackendUnavailable,
    BundleError,
    CheckpointError,
    CorpusError,
    EngineError,
    IfmminError,
    InputError,
    ParityError,
    RecipeError,
)
from .modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES, Modality, Pattern
from .prediction import Prediction
from .predictor import Predictor
from .recognizer import Recognizer, RecognizerStream, SpokenUtterance
from .validate import Policy

if TYPE_CHECKING:
    from .stream.options import Smoothing, StreamOptions

# What hears and sees people is silent. No engine is imported before this line; ONNX Runtime reads
# the variable when it is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "ALL_PATTERNS", "INCOMPLETE_PATTERNS", "MODALITIES", "BackendUnavailable", "Bundle",
    "BundleError", "CheckpointError", "CorpusError", "EngineError", "IfmminError", "InputError",
    "Modality", "ParityError", "Pattern", "Policy", "Prediction", "Predictor", "RecipeError",
    "Recognizer", "RecognizerStream", "Smoothing", "SpokenUtterance", "StreamOptions",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What is of streams alone, imported when asked for: utterances must not wait for it."""
    if name not in ("Smoothing", "StreamOptions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .stream import options

    return getattr(options, name)
