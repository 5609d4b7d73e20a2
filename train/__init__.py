"""Trains IF-MMIN and its baselines and writes checkpoints."""

from .checkpoint import load_checkpoint, save_checkpoint
from .config import Architecture, FeatureConfig, ModelConfig
from .data import load_corpus
from .data.corpus import Corpus, Statistics, Utterance
from .evaluate import evaluate, score
from .model.models import build_network
from .model.network import EmotionNetwork
from .recipe import Recipe, load_recipe
from .trainer import fit, train

__all__ = [
    "Architecture", "Corpus", "EmotionNetwork", "FeatureConfig", "ModelConfig", "Recipe",
    "Statistics", "Utterance", "build_network", "evaluate", "fit", "load_checkpoint", "load_corpus",
    "load_recipe", "save_checkpoint", "score", "train",
]  # fmt: skip
