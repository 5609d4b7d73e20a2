"""Counts of exported graphs, against the sizes of the tiny network they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_bundles import small_bundle

from ifmmin.benchmarks.limits import Count, axis_sizes, count_graph, input_owners
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.modality import Pattern

FRAMES = 9
# The sizes in tests/support/small_networks.py.
ACOUSTIC, TEXT, HIDDEN, CHANNELS, STAGES = 5, 11, 8, 6, 3
CHAIN, CLASSIFIER = (10, 9, 4), (12, 8)
ENCODER_A = 4 * HIDDEN * (ACOUSTIC + HIDDEN) * FRAMES
ENCODER_T = sum((FRAMES - k + 1) * CHANNELS * k * TEXT for k in (3, 4, 5)) + 18 * HIDDEN


def _head(modalities: int) -> int:
    """S per modality; S and H' into the chain; encoders, decoders but the last, links; classifier.

    The last layer of a decoder and the first of the next encoder are one matrix, a link.
    """
    wide, middle, narrow = CHAIN
    embedded = modalities * HIDDEN
    invariant = 2 * HIDDEN * HIDDEN * modalities
    entry = embedded * wide + embedded * STAGES * wide
    encoders = STAGES * (wide * middle + middle * narrow)
    decoders = (STAGES - 1) * (narrow * middle + middle * wide + wide * wide)
    first, second = CLASSIFIER
    return invariant + entry + encoders + decoders + 12 * first + first * second + second * 4


@pytest.fixture(scope="module")
def bundle(make_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = small_bundle(
        make_network, tmp_path_factory, ("a", "t", "a_t"), ("fp32", "fp16", "int8")
    )
    return Bundle(path)


def _count(bundle: Bundle, entry: GraphEntry, batch: int = 1) -> Count:
    lengths = dict.fromkeys("avt", FRAMES)
    return count_graph(bundle.graph(entry), axis_sizes(lengths, batch), input_owners(entry))


def _graph(bundle: Bundle, shape: str, pattern: str, precision: str) -> GraphEntry:
    wanted = (shape, Pattern.parse(pattern), precision)
    (entry,) = [g for g in bundle.manifest.graphs if (g.shape, g.pattern, g.precision) == wanted]
    return entry


def _by_part(count: Count) -> dict[str, int]:
    parts: Counter[str] = Counter()
    for work in count.works:
        parts[work.part] += work.arithmetic * work.repeats
    return dict(parts)


EXPECTED = {
    "a": {"a": ENCODER_A, "head": _head(1)},
    "t": {"t": ENCODER_T, "head": _head(1)},
    "a_t": {"a": ENCODER_A, "t": ENCODER_T, "head": _head(2)},
}


@pytest.mark.parametrize("pattern", EXPECTED)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parts_of_a_latency_graph(bundle: Bundle, pattern: str, precision: str) -> None:
    """In float16 the LSTM is a loop: another graph with the same multiply-adds."""
    count = _count(bundle, _graph(bundle, "latency", pattern, precision))
    assert _by_part(count) == EXPECTED[pattern]
    assert count.uncounted == ()


def test_in_8_bits_text_takes_products_of_all_tokens(bundle: Bundle) -> None:
    parts = _by_part(_count(bundle, _graph(bundle, "latency", "a_t", "int8")))
    rows = FRAMES * TEXT * CHANNELS * (3 + 4 + 5)
    assert parts == {"a": ENCODER_A, "t": rows + 18 * HIDDEN, "head": _head(2)}


@pytest.mark.parametrize("pattern", EXPECTED)
def test_a_batch_multiplies_as_often_as_its_utterances(bundle: Bundle, pattern: str) -> None:
    entry = _graph(bundle, "throughput", pattern, "fp32")
    one, many = _count(bundle, entry), _count(bundle, entry, batch=3)
    assert _by_part(one) == EXPECTED[pattern]
    assert many.arithmetic == 3 * one.arithmetic
    assert many.weight_bytes == one.weight_bytes


def test_weights_take_what_they_take_in_the_file(bundle: Bundle) -> None:
    for pattern in EXPECTED:
        size = {}
        for precision in ("fp32", "fp16", "int8"):
            entry = _graph(bundle, "latency", pattern, precision)
            size[precision] = _count(bundle, entry).weight_bytes
            assert size[precision] < entry.bytes
        assert size["fp16"] < 0.55 * size["fp32"]
        assert size["int8"] < 0.55 * size["fp32"]


def test_every_graph_can_be_counted(bundle: Bundle) -> None:
    sizes = {**axis_sizes(dict.fromkeys("avt", FRAMES), 2), "N": 5, "S": 4}
    for entry in bundle.manifest.graphs:
        count = count_graph(bundle.graph(entry), sizes, input_owners(entry))
        assert count.arithmetic > 0
        assert count.uncounted == ()
        parts = {work.part for work in count.works}
        assert parts <= {*input_owners(entry).values(), "head"}
        assert parts == {"head"} or entry.shape != "head"
        assert "head" not in parts or entry.shape != "step"
