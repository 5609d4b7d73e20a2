"""Encoders in the forms in which they are exported."""

from __future__ import annotations

from ifmmin.runtime.modality import Modality
from ifmmin.train.model.encoders import SequenceEncoder, StatisticsEncoder, TextCNN
from ifmmin.train.model.network import EmotionNetwork

from .encoder import FP32, ExportEncoder, Front, Precision, State
from .sequence import ExportSequenceEncoder
from .statistics import ExportStatisticsEncoder
from .text import ExportTextCNN

__all__ = ["ExportEncoder", "State", "build_encoder", "is_recurrent"]


def is_recurrent(network: EmotionNetwork, modality: Modality) -> bool:
    """Whether the encoder of a modality has a recurrent state."""
    return not isinstance(network.encoder(modality), StatisticsEncoder | TextCNN)


def build_encoder(
    network: EmotionNetwork,
    modality: Modality,
    precision: Precision = FP32,
    recurrence: str = "lstm",
) -> ExportEncoder:
    """The encoder of a modality, its standardisation folded in or in front of it."""
    encoder, normaliser = network.encoder(modality), network.normaliser(modality)
    config = network.config.architecture.transforms.get(modality)
    standard = normaliser.mean, normaliser.std
    if isinstance(encoder, StatisticsEncoder):
        raw = Front(config, half=False, standard=None)
        return ExportStatisticsEncoder(encoder, raw, *standard, half=precision.half)
    before, within = (None, standard) if precision.folded else (standard, None)
    front = Front(config, half=precision.half, standard=before)
    clears = precision.clears_padding
    if isinstance(encoder, TextCNN):
        return ExportTextCNN(
            encoder, front, within, products=precision.text_products, clears_padding=clears
        )
    assert isinstance(encoder, SequenceEncoder)  # models of others are not exported
    return ExportSequenceEncoder(encoder, front, within, recurrence, clears_padding=clears)
