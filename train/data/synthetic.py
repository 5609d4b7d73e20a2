"""A corpus drawn from a known generator, so that the best possible accuracy is known too.

For an utterance of class c, with s_m seen by all modalities and p_m private to each,

    s_m ~ N(mu_c, I), corr(s_m, s_m') = coupling,  p_m ~ N(nu_mc, I),  z_m = [s_m; p_m],
    x_m[t] = offset_m + scale_m * (gain_m A_m z_m w(t) + e),  e ~ N(0, I),

where A_m has orthonormal columns and w rises, stays and falls over the utterance. Each modality
alone tells some classes apart by its private part; the shared part is seen by all, noisily, so that
one modality says something about what another would show. A sufficient statistic of x_m is
u_m = z_m + N(0, I / (gain_m^2 sum_t w(t)^2)), so the class posterior under every pattern is that of
a small Gaussian, and its answer is the Bayes rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError, RecipeError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern, patterns_of

from ..config import (
    FeatureConfig,
    require_at_least,
    require_at_most,
    require_modalities,
    require_probability,
)
from .corpus import PARTS, Corpus, Utterance, training_statistics

LABELS = ("angry", "happy", "neutral", "sad")
_PRIOR = 1.0 / len(LABELS)
# The three ways to halve four classes; each modality's private part shows one of them.
_HALVES = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]])

Array = NDArray[np.float64]


class SyntheticModality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One modality of the generator."""

    dim: int
    """Features per frame, at least 3."""
    frames: tuple[int, int]
    """Shortest and longest utterance in frames."""
    gain: float = 2.0
    """Strength of the signal against unit noise in every feature, not 0."""
    frame_rate: float | None = None
    """Frames a second; none where frames have no fixed rate."""
    missing_length: int = 100
    """Frames of the all-zero input that stands for the missing modality."""

    def __post_init__(self) -> None:
        require_at_least(self, 3, "dim")
        require_at_most(self, 10_000, "dim", "frames")
        if not 1 <= self.frames[0] <= self.frames[1]:
            raise RecipeError(f"frames wants two rising numbers from 1, got {list(self.frames)}")
        _require_finite(self, "gain")
        if abs(self.gain) < _SMALLEST_GAIN:
            raise RecipeError(
                f"gain must be {_SMALLEST_GAIN:g} or more, or negative, got {self.gain:g}; "
                "private=0 and shared=0 take the classes out of a corpus"
            )


def _require_finite(owner: object, *names: str) -> None:
    for name in names:
        if not abs(getattr(owner, name)) <= _LARGEST:
            raise RecipeError(f"{name} must be a number up to {_LARGEST:g}")


_LARGEST, _SMALLEST_GAIN = 1e6, 1e-6


class SyntheticLayout(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="synthetic",
    tag_field="layout",
):  # fmt: skip
    """The synthetic corpus; another fold is another draw from the same generator."""

    modalities: dict[Modality, SyntheticModality]
    """The generator of each modality."""
    train: int = 1200
    """Training utterances."""
    validation: int = 200
    """Validation utterances."""
    test: int = 600
    """Test utterances."""
    shared: float = 0.6
    """Class means' distance from the origin in each shared latent, in within-class deviations."""
    private: float = 1.2
    """The same in the private latent of each modality."""
    coupling: float = 1.0
    """Correlation of two modalities' shared latents within a class, 0 to 1: what imagination of one
    from the other can tell beyond the class."""
    label_noise: float = 0.0
    """Share of training and validation labels that are another class, drawn; the test part keeps
    its own."""

    def __post_init__(self) -> None:
        require_modalities("modalities", self.modalities)
        require_probability(self, "label_noise")
        require_at_least(self, 0, "coupling")
        require_at_most(self, 1, "coupling")
        require_at_least(self, 1, "train", "validation", "test")
        require_at_most(self, 1_000_000, "train", "validation", "test")
        _require_finite(self, "shared", "private")


@dataclass(frozen=True)
class Source:
    """The fixed parameters of one modality's signal."""

    A: Array
    """(D, 3), orthonormal columns for the two shared latents and the private one."""
    offset: Array
    scale: Array
    gain: float
    means: Array
    """(C, 3), class means of z_m."""
    coupling: float

    def statistic(self, x: Array) -> tuple[Array, float]:
        """The sufficient statistic u_m (3,) of a sequence (T, D), and its noise variance."""
        w = envelope(len(x))
        clean = (x - self.offset) / self.scale
        energy = float(w @ w)
        return (w @ clean) @ self.A / (self.gain * energy), 1.0 / (self.gain**2 * energy)


def envelope(frames: int) -> Array:
    """Onset, apex, offset: (T,) in (0, 1]."""
    position = (np.arange(frames) + 0.5) / frames
    return np.asarray(np.minimum(1.0, 4.0 * np.minimum(position, 1.0 - position)))


def build_sources(layout: SyntheticLayout) -> dict[Modality, Source]:
    """The generator's parameters; they depend on the layout only, not on the fold."""
    sources = {}
    for index, modality in enumerate(MODALITIES):
        if modality not in layout.modalities:
            continue
        options = layout.modalities[modality]
        if options.dim < 3 or options.frames[0] < 1 or options.frames[1] < options.frames[0]:
            raise CorpusError(
                f"synthetic modality {modality} wants dim >= 3 and frames [least, most], "
                f"got dim {options.dim}, frames {list(options.frames)}"
            )
        rng = np.random.default_rng([7, index])
        means = np.column_stack([layout.shared * _HALVES[:2].T, layout.private * _HALVES[index]])
        sources[modality] = Source(
            A=np.linalg.qr(rng.standard_normal((options.dim, 3)))[0],
            offset=rng.normal(0.0, 2.0, options.dim),
            scale=np.exp(rng.normal(0.0, 0.5, options.dim)),
            gain=options.gain,
            means=means,
            coupling=layout.coupling,
        )
    return sources


def draw_synthetic(layout: SyntheticLayout, *, fold: int) -> Corpus:
    """Draw the corpus of a fold, with the Bayes rule's accuracy on its test part."""
    sources = build_sources(layout)
    parts = {}
    for index, part in enumerate(PARTS):
        rng = np.random.default_rng([fold, index])
        count = getattr(layout, part)
        drawn = [_draw(layout, sources, rng, f"{part}-{i:05d}", i) for i in range(count)]
        parts[part] = drawn if part == "test" else _mislabelled(drawn, layout.label_noise, rng)
    features = {
        m: FeatureConfig(
            dim=options.dim,
            features=f"synthetic {m.word} features",
            frame_rate=options.frame_rate,
            missing_length=options.missing_length,
        )
        for m, options in layout.modalities.items()
    }
    statistics = {m: training_statistics(parts["train"], m) for m in sources}
    test = parts["test"]
    labels = np.array([u.label for u in test])
    possible = {
        pattern: float((bayes_posterior(sources, test, pattern).argmax(axis=1) == labels).mean())
        for pattern in patterns_of(sources)
    }
    return Corpus("synthetic", LABELS, features, parts, statistics, possible)


def _draw(
    layout: SyntheticLayout,
    sources: dict[Modality, Source],
    rng: np.random.Generator,
    name: str,
    index: int,
) -> Utterance:
    label = index % len(LABELS)
    shared = rng.standard_normal(2)
    features: dict[Modality, NDArray[np.floating]] = {}
    for modality, source in sources.items():
        low, high = layout.modalities[modality].frames
        w = envelope(int(rng.integers(low, high + 1)))
        own = shared if layout.coupling == 1 else rng.standard_normal(2)
        both = np.sqrt(layout.coupling) * shared + np.sqrt(1.0 - layout.coupling) * own
        z = source.means[label] + np.append(both, rng.standard_normal())
        signal = source.gain * np.outer(w, source.A @ z)
        noise = rng.standard_normal(signal.shape)
        features[modality] = (source.offset + source.scale * (signal + noise)).astype(np.float16)
    return Utterance(name, features, label)


def _mislabelled(
    utterances: list[Utterance], share: float, rng: np.random.Generator
) -> list[Utterance]:
    wrong = rng.random(len(utterances)) < share
    steps = rng.integers(1, len(LABELS), len(utterances))
    labels = [
        (u.label + int(step)) % len(LABELS) for u, step in zip(utterances, steps, strict=True)
    ]
    return [
        replace(u, label=label) if other else u
        for u, label, other in zip(utterances, labels, wrong, strict=True)
    ]


def bayes_posterior(
    sources: dict[Modality, Source], utterances: list[Utterance], pattern: Pattern
) -> Array:
    """Class posterior (N, C) given the modalities of a pattern, all of which must be present."""
    modalities = list(pattern)
    coupled = np.diag([1.0, 1.0, 0.0]) * sources[modalities[0]].coupling
    covariance = np.kron(np.ones((len(modalities),) * 2), coupled)
    np.fill_diagonal(covariance, 1.0)
    means = np.concatenate([sources[m].means for m in modalities], axis=1)
    seen = [
        [sources[m].statistic(u.features[m].astype(float)) for m in modalities] for u in utterances
    ]
    statistics = np.array([np.concatenate([u for u, _ in row]) for row in seen])
    noise = np.repeat([[variance for _, variance in row] for row in seen], 3, axis=1)
    residuals = statistics[:, None] - means  # (N, C, 3 M)
    covariances = covariance + noise[:, None, :] * np.eye(noise.shape[1])
    weighted = np.linalg.solve(covariances, residuals.transpose(0, 2, 1)).transpose(0, 2, 1)
    # Of an utterance the covariance is the same for every class, so its determinant cancels.
    log_joint = np.log(_PRIOR) - 0.5 * (residuals * weighted).sum(axis=2)
    unnormalised = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return np.asarray(unnormalised / unnormalised.sum(axis=1, keepdims=True))
