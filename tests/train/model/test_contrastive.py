"""CIF-MMIN against its equations, computed anew in numpy, and its published sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_command import call
from small_networks import DIMS, small_utterance
from small_recipe import TINY

from ifmmin.export.cli import main as export_main
from ifmmin.runtime.errors import RecipeError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.checkpoint import load_checkpoint, save_checkpoint
from ifmmin.train.cli import main as train_main
from ifmmin.train.config import Architecture, FeatureConfig, ModelConfig, Stage1, Stage2
from ifmmin.train.model.encoders import PairedEncoder
from ifmmin.train.model.loader import BatchLoader
from ifmmin.train.model.losses import ContrastiveObjective, TaughtObjective, Teacher, contrast
from ifmmin.train.model.models import ContrastiveImagination, ContrastiveNetwork, build_network
from ifmmin.train.recipe import load_recipe

A, V, T = Modality.A, Modality.V, Modality.T
COMMON: dict[str, Any] = {
    "epochs": 1, "decay_epochs": 0, "batch_size": 16, "learning_rate": 2e-4, "dropout": 0.0,
}  # fmt: skip
ORDER = (A, T, V)
PAIRS = {(T, V): 0.25, (T, A): 0.25, (V, A): 0.5}


def _config(dims: Mapping[str, int], **sizes: Any) -> ModelConfig:
    return ModelConfig(
        labels=("ang", "hap", "neu", "sad"),
        features={m: FeatureConfig(dim=dims[m.value], missing_length=6) for m in MODALITIES},
        architecture=Architecture(model="cif-mmin", **sizes),
    )


SMALL = _config(
    DIMS, embedding=6, text_channels=4, blocks=5, block_sizes=(12, 9, 8), classifier_sizes=(7, 7)
)


def _double(network: Any, seed: int) -> Any:
    """In float64, with weights that spread the answers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.double().parameters():
            parameter.normal_(0.0, 0.5)
    return network.eval()


def test_sizes_are_those_of_the_published_code() -> None:
    config = _config({"a": 130, "v": 342, "t": 1024})
    counts = [
        sum(p.numel() for p in network.parameters())
        for network in (ContrastiveNetwork(config), build_network(config))
    ]
    assert counts == [3_129_092 - 3 * 33_280, 4_723_652]


def test_contrast_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 3))
    u, w = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    total = 0.0
    for one, other in ((u, w), (w, u)):
        for i in range(5):
            own = math.exp(math.e * float(one[i] @ other[i]))
            rest = sum(math.exp(math.e * float(one[i] @ other[j])) for j in range(5) if j != i)
            total += -math.log(own / (1e-10 + rest) + 1e-20) / 10
    found = contrast(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(total, abs=1e-12)
    wrong = contrast(torch.from_numpy(x), torch.from_numpy(y[::-1].copy()))
    assert abs(float(wrong) - total) > 0.1


def _linear(net: torch.nn.Module, name: str, x: np.ndarray) -> np.ndarray:
    weight, bias = (net.get_parameter(f"{name}.{n}").detach().numpy() for n in ("weight", "bias"))
    return np.asarray(x @ weight.T + bias)


def _mlp(net: torch.nn.Module, name: str, count: int, x: np.ndarray, slope: float) -> np.ndarray:
    for layer in range(count):
        x = _linear(net, f"{name}.linears.{layer}", x)
        if layer < count - 1:
            x = np.where(x > 0, x, slope * x)
    return x


def _flat(h: np.ndarray) -> np.ndarray:
    """(B, M, E), canonical order -> (B, ME) in the published order."""
    return np.concatenate([h[:, MODALITIES.index(m)] for m in ORDER], axis=1)


def _imagined(net: torch.nn.Module, h: np.ndarray, invariant: np.ndarray) -> np.ndarray:
    """imagined = W2 ReLU(W1 (x_5 + o_5)), x_k = o_{k-1} + H', o_k = Dec_k(Enc_k(x_k)), o_0 = h."""
    x, output = h, h
    for block in range(5):
        x = output + invariant
        latent = _mlp(net, f"imagination.encoders.{block}", 3, x, 0.01)
        output = _mlp(net, f"imagination.decoders.{block}", 3, latent, 0.0)
    return _mlp(net, "imagination.transition", 2, x + output, 0.0)


def test_stage_2_is_its_equations() -> None:
    network = _double(ContrastiveImagination(SMALL), 1)
    utterances = [
        small_utterance(np.random.default_rng(i), {"a": 3 + i, "v": 4, "t": 6}, i % 4)
        for i in range(6)
    ]
    batch = BatchLoader(network, utterances).batch(np.arange(6))
    with torch.no_grad():
        h = network.embeddings(batch).numpy()
        output = network.head(torch.from_numpy(h), batch.present)
    specific, invariant = h[..., :6], h[..., 6:]
    given = _flat(specific)
    imagined = _imagined(network, given, _flat(invariant))
    logits = _mlp(network, "classifier", 3, given + imagined, 0.0)
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(output.logits.numpy(), logits, rtol=1e-10)
    assert output.imagined is not None
    np.testing.assert_allclose(_flat(output.imagined.numpy()), imagined, rtol=1e-10)
    # The second encoders see the raw frames, not h.
    encoder = network.encoder(A)
    assert isinstance(encoder, PairedEncoder)
    frames = torch.from_numpy(utterances[0].features[A].astype(np.float64))[None]
    alone = encoder.invariant.rnn(frames)[0].amax(dim=1)
    np.testing.assert_allclose(alone.detach().numpy()[0], invariant[0, 0], rtol=1e-10)


def test_losses_and_who_learns_from_which() -> None:
    utterances = [
        small_utterance(np.random.default_rng(i), {"a": 3 + i, "v": 4, "t": 6}, i % 4)
        for i in range(8)
    ]
    rows = np.arange(8)
    teacher = _double(ContrastiveNetwork(SMALL), 2)
    loader = BatchLoader(teacher, utterances)
    first = ContrastiveObjective(
        teacher, Stage1(clip=0.5, **COMMON), loader, np.random.default_rng(0)
    )
    first.projections.double()
    terms = first.losses(loader.batch(rows), rows)
    assert terms.keys() == {"cross_entropy", "contrast_a_v", "contrast_a_t", "contrast_v_t"}
    invariant = teacher(loader.batch(rows)).invariant
    for (m, n), weight in PAIRS.items():
        x, y = (first.projections[k.value](invariant[:, MODALITIES.index(k)]) for k in (m, n))
        name = next(k for k in terms if set(k.split("_")[1:]) == {m.value, n.value})
        assert terms[name].item() == pytest.approx(weight * contrast(x, y).item(), rel=1e-9)
    # Two trainings without a parameter in common: H' sees no label.
    terms["cross_entropy"].backward()  # type: ignore[no-untyped-call]
    moved = {name for name, part in first.parts().items() if _has_gradient(part)}
    assert moved == {"encoder_a", "encoder_v", "encoder_t", "classifier"}

    student = _double(ContrastiveImagination(SMALL), 3)
    stage = Stage2(clip=1.0, imagination=8.0, invariance=100.0, **COMMON)
    second = TaughtObjective(
        student, stage, BatchLoader(student, utterances), np.random.default_rng(1),
        Teacher(teacher, loader),
    )  # fmt: skip
    # Drawn patterns are the same for the same draws.
    twin = TaughtObjective(
        student, stage, BatchLoader(student, utterances), np.random.default_rng(1),
        Teacher(teacher, loader),
    )  # fmt: skip
    seen = twin.see(loader.batch(rows))
    found = {k: v.item() for k, v in second.losses(loader.batch(rows), rows).items()}
    with torch.no_grad():
        full = teacher.embeddings(loader.batch(rows))
        absent = teacher.missing_embeddings()
    target = torch.where(seen.present[..., None], absent[:, :6], full[..., :6])
    assert seen.output.imagined is not None
    assert seen.output.invariant is not None
    imagination = 8 * (seen.output.imagined - target).pow(2).mean()
    invariance = 100 * (seen.output.invariant - full[..., 6:]).pow(2).mean()
    assert found["imagination"] == pytest.approx(imagination.item(), rel=1e-9)
    assert found["invariance"] == pytest.approx(invariance.item(), rel=1e-9)
    assert not seen.present.all()


def _has_gradient(part: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum()) for p in part.parameters())


def test_a_checkpoint_comes_back_and_is_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = ContrastiveImagination(SMALL)
    save_checkpoint(path, network, {"corpus": "made"})
    again, _ = load_checkpoint(path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    ran = call(export_main, path, "-o", tmp_path / "bundle")
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert "holds the model cif-mmin, a baseline, whose graph has nothing to leave out" in line
    assert not (tmp_path / "bundle").exists()


def test_statistics_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"cif-mmin wants sequence encoders, not network\.statist"
    ):
        load_recipe("robust", model="cif-mmin")
    assert load_recipe("iemocap", model="cif-mmin").stage2.imagination == 8.0  # type: ignore[union-attr]


@pytest.mark.parametrize("modalities", ["a,v,t", "a,t"])
def test_it_trains_evaluates_and_sweeps(tmp_path: Path, modalities: str) -> None:
    options = [*TINY, "--set", f"modalities=[{modalities}]"]
    ran = call(
        train_main, "sweep", *options, "--model", "mmin,cif-mmin", "--folds", "1", "--seeds", "0-1",
        "--jobs", "1", "-o", tmp_path / "sweep",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    table = (tmp_path / "sweep" / "results.md").read_text()
    assert "| cif-mmin |" in table
    assert "| mmin - cif-mmin |" in table
    unit = tmp_path / "sweep" / "units" / "cif-mmin" / "fold-1" / "seed-0"
    history = (unit / "history.csv").read_text().splitlines()
    pair = f"contrast_{modalities[0]}_{modalities[-1]}"
    assert {"cross_entropy", pair, "imagination", "invariance"} <= set(history[0].split(","))
    assert call(train_main, "evaluate", unit / "model.safetensors").code == 0
