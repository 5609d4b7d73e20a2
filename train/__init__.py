"""Trains IF-MMIN and its baselines and writes checkpoints."""

from ifmmin.train.checkpoint import load_checkpoint, save_checkpoint
from ifmmin.train.config import Architecture, FeatureConfig, ModelConfig
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus, Statistics, Utterance
from ifmmin.train.evaluate import evaluate, score
from ifmmin.train.models import build_network
from ifmmin.train.network import EmotionNetwork
from ifmmin.train.recipe import Recipe, load_recipe
from ifmmin.train.run import fit
from ifmmin.train.stages import train

__all__ = [
    "Architecture",
    "Corpus",
    "EmotionNetwork",
    "FeatureConfig",
    "ModelConfig",
    "Recipe",
    "Statistics",
    "Utterance",
    "build_network",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_corpus",
    "load_recipe",
    "save_checkpoint",
    "score",
    "train",
]
