"""Controls of the gate: sound graphs pass by default in every precision, wrong ones in none."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_command import call, mistake
from small_bundles import graph_entry
from small_networks import dynamic_model, load_model, small_network
from small_recipe import small

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import main
from ifmmin.export.graph import plan_latency, plan_throughput, to_model
from ifmmin.export.specialise.encoder import PRECISIONS
from ifmmin.export.verify.parity import DEFAULTS, Comparison, compare, find_violations
from ifmmin.export.verify.probes import Probes, compare_probes, run_alone, run_batches
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.bundle.verify import check_outputs
from ifmmin.runtime.modality import Pattern
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.trainer import train

WHOLE = Pattern.parse("a_v_t")
SHORT = ("fp32", "fp16", "int8")


@cache
def _trained() -> tuple[EmotionNetwork, Probes]:
    """A network that learned for a second: ordinary weights, as those of tests are not."""
    recipe, corpus = small("stage1.epochs=6", "stage2.epochs=10")
    network = train(recipe, corpus, seed=0).network
    return network, Probes(network)


def _compared(precision: str, change: Callable[[Any], None], shape: str = "latency") -> Comparison:
    network, probes = _trained()
    form = PRECISIONS[precision]
    plan = plan_latency if shape == "latency" else plan_throughput
    made = plan(network, WHOLE, form, form.recurrence)
    with torch.no_grad():
        change(made.module)
    model = to_model(made)
    if precision == "int8":
        model = dynamic_model(model)
    drive = run_alone if shape == "latency" else run_batches
    chosen = probes.of(WHOLE)
    return compare_probes(drive(load_model(model, literal=True), chosen), chosen)


def _nothing(module: Any) -> None:
    """As it is."""


def _weight(module: Any) -> None:
    """One layer's weights are half as large again."""
    module.get_parameter("head.rest.classifier.linears.0.weight").mul_(1.5)


def _swapped(module: Any) -> None:
    """Faces are heard and voices seen."""
    rest = module.get_submodule("head.rest")
    first = next(p for p in rest.parameters() if p.dim() == 2)
    first.copy_(first.flip(1))


def _biased(module: Any) -> None:
    """One class is favoured."""
    list(module.get_submodule("head.rest.classifier").parameters())[-1][0] += 1.0


@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize("shape", ["latency", "throughput"])
def test_a_sound_graph_passes_by_default(precision: str, shape: str) -> None:
    found = _compared(precision, _nothing, shape)
    assert not find_violations("g", found, None, DEFAULTS[precision]), str(found)


@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize("change", [_weight, _swapped, _biased])
def test_a_wrong_graph_passes_in_no_precision(precision: str, change: Any) -> None:
    found = _compared(precision, change)
    assert find_violations("g", found, None, DEFAULTS[precision]), str(found)


@pytest.mark.parametrize("precision", SHORT)
def test_padding_that_counts_passes_in_no_precision(precision: str) -> None:
    """Every utterance is said to be as long as the longest of its batch."""
    network, probes = _trained()
    form = PRECISIONS[precision]
    model = to_model(plan_throughput(network, WHOLE, form, form.recurrence))
    run = load_model(dynamic_model(model) if precision == "int8" else model, literal=True)

    def longest(inputs: Any) -> Any:
        changed = {k: np.full_like(x, x.max()) if "lengths" in k else x for k, x in inputs.items()}
        return run(changed)

    found = compare_probes(run_batches(longest, probes.of(WHOLE)), probes.of(WHOLE))
    assert find_violations("g", found, None, DEFAULTS[precision]), str(found)


def test_an_undecided_answer_may_turn_and_a_decided_one_may_not() -> None:
    truth = np.log(np.array([[0.51, 0.49]] * 60 + [[0.60, 0.40]] * 40))
    turned = truth.copy()
    turned[:60] = truth[:60, ::-1]
    assert compare(turned, truth, ["x"] * 100).agreement == 1.0
    turned[60] = truth[60, ::-1]
    assert compare(turned, truth, ["x"] * 100).agreement == 39 / 40


@pytest.mark.parametrize(("loss", "passes"), [(0.0, False), (4e-5, False), (6e-5, True)])
def test_what_float32_loses_may_be_lost_four_times(loss: float, passes: bool) -> None:
    truth = np.array([[1.0, 0.0], [0.0, 3.0]])
    found = truth + np.array([[2e-4, 0.0], [0.0, 0.0]])
    comparison = compare(found, truth, ["a", "b"], float32_loss=loss)
    assert bool(find_violations("g", comparison, None, DEFAULTS["fp32"])) != passes
    entry = graph_entry(precision="fp32", parity={"float32_loss": loss})
    assert check_outputs(entry, "golden", found, truth).passed == passes


def test_what_float32_loses_is_measured_and_recorded(tmp_path: Path) -> None:
    """A sum over 2,000 frames rounds in any program, the network's own included."""
    network, checkpoint = small_network("sum"), tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, network, {})
    words = [checkpoint, "--pattern", "a", "--out", tmp_path / "bundle"]
    assert call(main, *words).code == 0
    for entry in Bundle(tmp_path / "bundle").manifest.graphs:
        if entry.pattern is not None:
            assert 1e-6 < entry.parity["float32_loss"] < 1e-2
            assert entry.parity["excess"] <= 1.0
    verify = ["verify", "-b", tmp_path / "bundle", "--checkpoint", checkpoint]
    assert call(bundle_main, *verify).code == 0


def test_the_reason_of_a_graph_that_refuses_is_told() -> None:
    _, probes = _trained()
    chosen, asked = probes.of(WHOLE), []

    def run(inputs: Any) -> Any:
        asked.append(inputs)
        if len(asked) in (3, 5):
            raise RuntimeError(f"no room for call {len(asked)}\nand more")
        return [np.zeros(4, np.float32)]

    found = compare_probes(run_alone(run, chosen), chosen)
    assert found.unanswered.startswith(str(chosen[2]))
    assert "no room for call 3" in found.unanswered
    assert "call 5" not in str(found)
    for limits in DEFAULTS.values():
        (violation,) = find_violations("g", found, None, limits)
        assert violation.reason == found.unanswered


def test_a_network_that_overflows_in_float32_is_not_its_own_excuse() -> None:
    network = small_network()
    with torch.no_grad():
        network.get_parameter("classifier.linears.2.weight").mul_(1e30)
        network.get_parameter("classifier.linears.1.weight").mul_(1e30)
    chosen = Probes(network).of(WHOLE)
    form = PRECISIONS["fp32"]
    run = load_model(to_model(plan_latency(network, WHOLE, form, form.recurrence)))
    found = compare_probes(run_alone(run, chosen), chosen)
    assert found.unanswered
    assert find_violations("g", found, None, DEFAULTS["fp32"])


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_pipe, "is a pipe, wanted a file"),
        (Path.mkdir, "is a directory, wanted a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, wanted a file"),
        (lambda path: path.write_bytes(b""), "is not a checkpoint"),
        (lambda path: None, "no checkpoint at"),
    ],
)
@pytest.mark.parametrize("command", ["export", "verify"])
def test_what_is_no_checkpoint(
    make: Any, said: str, command: str, tmp_path: Path, make_bundle: Any
) -> None:
    path = tmp_path / "x.safetensors"
    make(path)
    if command == "export":
        assert said in mistake(main, path, "--out", tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
        return
    error = mistake(bundle_main, "verify", "-b", make_bundle(), "--checkpoint", path)
    assert said in error or "is not the checkpoint of" in error


@pytest.mark.parametrize(
    "training",
    [
        {}, {"recipe": None}, {"recipe": 3}, {"recipe": {}},
        {"recipe": {"corpus": {"layout": "x"}}},
        {"recipe": {"name": "x", "corpus": {"layout": "synthetic", "modalities": {}}}},
    ],
)  # fmt: skip
def test_a_broken_recipe_cannot_be_evaluated(training: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, small_network(), training)
    error = mistake(main, checkpoint, "--evaluate", "--out", tmp_path / "bundle")
    assert "does not say how its corpus is laid out" in error or "is damaged: Expected" in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/ifmmin-bundle"])
def test_places_where_no_bundle_can_be(name: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    words = [checkpoint, "--pattern", "a", "--shape", "latency", "--out", tmp_path / name]
    assert "cannot write" in mistake(main, *words)
    assert (tmp_path / "file").read_text() == "mine"
