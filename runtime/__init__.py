"""Torch-free runtime: answers from a bundle of graphs, whichever modalities are there."""

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import (
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
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES, Modality, Pattern
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.stream.options import Smoothing, StreamOptions
from ifmmin.runtime.validate import Policy

__all__ = [
    "ALL_PATTERNS",
    "INCOMPLETE_PATTERNS",
    "MODALITIES",
    "BackendUnavailable",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "CorpusError",
    "EngineError",
    "IfmminError",
    "InputError",
    "Modality",
    "ParityError",
    "Pattern",
    "Policy",
    "Prediction",
    "Predictor",
    "RecipeError",
    "Smoothing",
    "StreamOptions",
]
