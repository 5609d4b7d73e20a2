"""Everything that fixes a network's shape and meaning; it travels inside the checkpoint.

Shapes in the whole package: B batch, T time (frames or tokens), D features per frame, E embedding,
M = 3 modalities in canonical order a, v, t, C classes.
"""

from __future__ import annotations

import msgspec

from ifmmin.runtime.errors import RecipeError
from ifmmin.runtime.modality import MODALITIES, Modality

IMAGINATION_FORMS = ("cascade", "parallel")
MODELS = ("if-mmin", "fusion")


class FeatureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one modality's features are."""

    dim: int
    """Features per frame."""
    features: str = "unspecified"
    """What the numbers are, for the person who has to compute them at the edge."""
    frame_rate: float | None = None
    """Frames a second; None where frames have no fixed rate."""
    missing_length: int = 100
    """Frames of the all-zero input whose encoding stands for the missing modality."""


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and variants of the network; the defaults are the paper's."""

    model: str = "if-mmin"
    """`if-mmin`, or `fusion`: encoders, invariant encoder and a classifier, no imagination."""
    imagination: str = "cascade"
    """`cascade`: each block takes the one before it (the paper's equations and the reference since
    September 2024); `parallel`: each takes h + k H' (the reference at publication)."""
    embedding: int = 128
    """Width E of every embedding: LSTM state, TextCNN output, invariant feature."""
    text_channels: int = 128
    """Channels of each text convolution."""
    text_kernels: tuple[int, ...] = (3, 4, 5)
    """Heights of the text convolutions, in tokens."""
    text_dropout: float = 0.5
    """Dropout before the last layer of the TextCNN."""
    invariant_layers: int = 2
    """Linear + LeakyReLU layers of the invariant encoder."""
    blocks: int = 5
    """Residual autoencoder blocks of the imagination module."""
    block_sizes: tuple[int, ...] = (256, 128, 64)
    """Widths of a block's encoder; the decoder mirrors them."""
    classifier_sizes: tuple[int, ...] = (128, 128)
    """Hidden widths of the classifier."""

    def __post_init__(self) -> None:
        _one_of("model", self.model, MODELS)
        _one_of("imagination", self.imagination, IMAGINATION_FORMS)
        for name in ("embedding", "text_channels", "invariant_layers", "blocks"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("text_kernels", "block_sizes", "classifier_sizes"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise RecipeError(f"{name} wants one or more positive sizes, got {list(sizes)}")
        if not 0 <= self.text_dropout < 1:
            raise RecipeError(f"text_dropout must be in [0, 1), got {self.text_dropout}")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network: its classes, its inputs, its architecture."""

    labels: tuple[str, ...]
    features: dict[Modality, FeatureConfig]
    architecture: Architecture = msgspec.field(default_factory=Architecture)

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise RecipeError(f"a network needs two or more labels, got {list(self.labels)}")
        if set(self.features) != set(MODALITIES):
            got = ", ".join(str(m) for m in self.features) or "none"
            raise RecipeError(f"features of a, v and t are wanted, got {got}")
        for modality in MODALITIES:
            shortest = self.minimum_length(modality)
            if self.features[modality].missing_length < shortest:
                raise RecipeError(
                    f"missing_length of {modality} must be at least {shortest}, "
                    f"got {self.features[modality].missing_length}"
                )

    def minimum_length(self, modality: Modality) -> int:
        """Frames below which an input is zero-padded: the largest text kernel, else 1."""
        return max(self.architecture.text_kernels) if modality is Modality.T else 1


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}; got {value!r}")
