"""Import of released checkpoints against an independent float64 computation of the reference."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ifmmin.export.cli import main as export
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.cli import main as train
from ifmmin.train.corpus import Utterance
from ifmmin.train.recipe import load_recipe
from ifmmin.train.released_checkpoint import import_released

DIMS, FRAMES = {"A": 5, "V": 7, "L": 11}, {"A": 13, "V": 8, "L": 9}
LETTER = dict(zip("avt", "AVL", strict=True))
VARIANTS = ("V0100", "V0200", "V0500", "V0501", "V0600")
MISSING = {m: FRAMES[LETTER[m]] for m in MODALITIES}
MISSING_OPTION = ",".join(f"{m}={n}" for m, n in MISSING.items())

Net = dict[str, np.ndarray]
Frames = dict[str, np.ndarray]


def _float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)


class Reference:
    """The reference's equations, in float64, on weights under the reference's names."""

    def __init__(
        self, *, form: str = "cascade", run_idx: Any = "V0100", pooling: Any = "maxpool",
        sizes: tuple[int, ...] = (10, 8, 4), E: int = 6, dims: dict[str, int] = DIMS, seed: int = 0,
    ) -> None:  # fmt: skip
        self.form, self.run_idx, self.order = form, run_idx, "ALV"
        both = (pooling, pooling) if isinstance(pooling, str) else pooling
        self.pooling = dict(zip("AV", both, strict=True))
        self.rng, self.dims = np.random.default_rng(seed), dims
        self.nets: dict[str, Net] = {"A": self._rnn("A", E), "V": self._rnn("V", E)}
        text: Net = self._linear("embd.0", 3 * 6, E, 0.5)
        for number, kernel in ((1, 3), (2, 4), (3, 5)):
            text[f"conv{number}.weight"] = self._draw(6, 1, kernel, dims["L"]) / dims["L"] ** 0.5
            text[f"conv{number}.bias"] = self._draw(6) * 0.3
        self.nets["L"] = text
        layers = 4 if "V0200" in str(run_idx) else 1 if "V05" in str(run_idx) else 2
        shared: Net = {}
        for number in range(1, layers + 1):
            shared |= self._linear(f"netshared.shared_{number}", E, E)
        latent = 3 * sizes[-1]
        if form == "stage1":
            self.nets["Shared"], latent = shared, 6 * E
        else:
            self.nets["AE"] = self._autoencoders((3 * E, *sizes))
            if form != "mmin":
                self.nets["invariant"] = shared
        chain = (latent, 16, 12)
        self.nets["C"] = self._linear("fc_out", 12, 4)
        for index, (before, after) in enumerate(pairwise(chain)):
            self.nets["C"] |= self._linear(f"module.{3 * index}", before, after)
        self._spread()

    def _draw(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def _linear(self, name: str, before: int, after: int, gain: float = 1.4) -> Net:
        weight = gain * self._draw(after, before) / before**0.5
        return {f"{name}.weight": weight, f"{name}.bias": 0.25 * self._draw(after)}

    def _rnn(self, letter: str, E: int) -> Net:
        net = {
            "rnn.weight_ih_l0": self._draw(4 * E, self.dims[letter]),
            "rnn.weight_hh_l0": self._draw(4 * E, E),
            "rnn.bias_ih_l0": self._draw(4 * E),
            "rnn.bias_hh_l0": self._draw(4 * E),
        }
        net = {key: 0.4 * value for key, value in net.items()}
        if self.pooling[letter] == "attention":
            net["attention_vector_weight"] = self._draw(E, 1)
            net |= self._linear("attention_layer.0", E, E)
        return net

    def _autoencoders(self, sizes: tuple[int, ...]) -> Net:
        net = self._linear("transition.0", sizes[0], sizes[0])
        net |= self._linear("transition.2", sizes[0], sizes[0])
        for block in range(3):
            for part, chain in (("encoder", sizes), ("decoder", sizes[::-1])):
                for index, (before, after) in enumerate(pairwise(chain)):
                    net |= self._linear(f"{part}_{block}.{2 * index}", before, after)
        return net

    def _spread(self) -> None:
        """Logits around zero that vary, so that every class wins somewhere."""
        found = np.array([self.logits(self.utterance(), p) for p in ALL_PATTERNS for _ in range(3)])
        net = self.nets["C"]
        scale = 3 / found.std(axis=0)
        net["fc_out.weight"] *= scale[:, None]
        net["fc_out.bias"] = (net["fc_out.bias"] - found.mean(axis=0)) * scale
        # Numbers that float32 holds, so that saving them changes nothing.
        self.nets = {n: {k: _float32(x) for k, x in net.items()} for n, net in self.nets.items()}

    def utterance(self) -> Frames:
        shapes = {m: (FRAMES[letter], self.dims[letter]) for m, letter in LETTER.items()}
        return {m: _float32(1.5 * self._draw(*shape)) for m, shape in shapes.items()}

    def logits(self, utterance: Frames, pattern: Pattern) -> np.ndarray:
        """A missing modality is zeros of the utterance's own length through the encoder."""
        h = {}
        for m, letter in LETTER.items():
            x = utterance[m] * (m in pattern)
            h[letter] = self._text(x) if letter == "L" else self._pool(letter, x)
        joined = np.concatenate([h[letter] for letter in self.order])
        if self.form == "mmin":
            return self._classify(self._residual(joined))
        guide = np.concatenate([self._shared(h[letter]) for letter in self.order])
        if self.form == "stage1":
            return self._classify(np.concatenate([joined, guide]))
        latents, output = [], joined
        for block in range(3):
            x = output + guide if self.form == "cascade" else joined + (block + 1) * guide
            latents.append(self._block(f"encoder_{block}", x, 0.01))
            output = self._block(f"decoder_{block}", latents[-1], 0.0)
        return self._classify(np.concatenate(latents))

    def _residual(self, x: np.ndarray) -> np.ndarray:
        latents = []
        for block in range(3):
            latents.append(self._block(f"encoder_{block}", x, 0.01))
            x = x + self._block(f"decoder_{block}", latents[-1], 0.0)
        return np.concatenate(latents)

    def _pool(self, letter: str, x: np.ndarray) -> np.ndarray:
        net = self.nets[letter]
        E = net["rnn.weight_hh_l0"].shape[1]
        state, cell, outputs = np.zeros(E), np.zeros(E), []
        for frame in x:
            gates = net["rnn.weight_ih_l0"] @ frame + net["rnn.weight_hh_l0"] @ state
            gates += net["rnn.bias_ih_l0"] + net["rnn.bias_hh_l0"]
            enter, forget, candidate, out = gates.reshape(4, E)
            cell = cell / (1 + np.exp(-forget)) + np.tanh(candidate) / (1 + np.exp(-enter))
            state = np.tanh(cell) / (1 + np.exp(-out))
            outputs.append(state)
        table = np.array(outputs)
        if self.pooling[letter] == "last":
            return np.asarray(table[-1])
        if self.pooling[letter] == "maxpool":
            return np.asarray(table.max(axis=0))
        hidden = np.tanh(table @ net["attention_layer.0.weight"].T + net["attention_layer.0.bias"])
        score = np.exp(hidden @ net["attention_vector_weight"])
        weight = score / score.sum(axis=-1, keepdims=True)  # over the last axis, of length 1
        return np.asarray((table * weight).sum(axis=0))

    def _text(self, x: np.ndarray) -> np.ndarray:
        net, pooled = self.nets["L"], []
        for number, kernel in ((1, 3), (2, 4), (3, 5)):
            rows = np.stack([x[i : i + kernel].ravel() for i in range(len(x) - kernel + 1)])
            weight = net[f"conv{number}.weight"].reshape(-1, rows.shape[1])
            pooled.append(np.maximum(rows @ weight.T + net[f"conv{number}.bias"], 0).max(axis=0))
        return np.asarray(np.maximum(self._apply("L", "embd.0", np.concatenate(pooled)), 0))

    def _shared(self, x: np.ndarray) -> np.ndarray:
        name = "Shared" if self.form == "stage1" else "invariant"
        if "V0200" in str(self.run_idx):
            for number in (1, 2, 3):
                x = 1 / (1 + np.exp(-self._apply(name, f"netshared.shared_{number}", x)))
            return self._apply(name, "netshared.shared_4", x)
        for number in (1,) if "V05" in str(self.run_idx) else (1, 2):
            x = self._apply(name, f"netshared.shared_{number}", x)
            x = np.where(x > 0, x, 0.01 * x)
        return x

    def _block(self, name: str, x: np.ndarray, slope: float) -> np.ndarray:
        for index in (0, 2, 4):
            x = self._apply("AE", f"{name}.{index}", x)
            x = x if index == 4 else np.where(x > 0, x, slope * x)
        return x

    def _classify(self, x: np.ndarray) -> np.ndarray:
        for index in (0, 3):
            x = np.maximum(self._apply("C", f"module.{index}", x), 0)
        return self._apply("C", "fc_out", x)

    def _apply(self, net: str, name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.nets[net][f"{name}.weight"] @ x + self.nets[net][f"{name}.bias"])

    def save(
        self, root: Path, *, fold: int = 3, epoch: Any = 17, prefix: str = "", zipped: bool = True,
        options: dict[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        (root / str(fold)).mkdir(parents=True, exist_ok=True)
        said = {
            "name": "made", "run_idx": self.run_idx, "max_dataset_size": float("inf"),
            "embd_method_a": self.pooling["A"], "embd_method_v": self.pooling["V"],
            "checkpoints_dir": "/private/place", "norm_method": "trn", "gpu_ids": [0],
        }  # fmt: skip
        (root / "train_opt.conf").write_text(json.dumps(said | (options or {})))
        for name, net in self.nets.items():
            content = {prefix + key: torch.from_numpy(x).float() for key, x in net.items()}
            path = root / str(fold) / f"{epoch}_net_{name}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        (root / str(fold) / "test_pred.npy").touch()
        return root


def _form_option(form: str) -> str | None:
    return form if form in ("cascade", "parallel") else None


def _ours(network: Any, alone: Any, utterance: Frames, pattern: Pattern) -> np.ndarray:
    features = {m: utterance[m.value].astype(np.float32) for m in pattern}
    return np.asarray(alone(network, Utterance("x", features, 0)))


def _check(imported: Any, reference: Reference, alone: Any) -> None:
    """Equal in both precisions, over inputs that make different classes win; else not."""
    utterances = [reference.utterance() for _ in range(3)]
    exact = [(u, p, reference.logits(u, p)) for u in utterances for p in ALL_PATTERNS]
    for u, p, wanted in exact:
        np.testing.assert_allclose(_ours(imported.network, alone, u, p), wanted, rtol=0, atol=1e-4)
    imported.network.double()
    for u, p, wanted in exact:
        np.testing.assert_allclose(_ours(imported.network, alone, u, p), wanted, rtol=0, atol=1e-10)
    answers = np.array([wanted for *_, wanted in exact])
    assert answers.std(axis=0).min() > 0.3
    assert len(set(answers.argmax(axis=1))) > 1
    reference.order = "AVL"
    moved = [abs(reference.logits(u, p) - wanted).max() for u, p, wanted in exact]
    assert min(moved) > 1e-2


@pytest.mark.parametrize("form", ["stage1", "cascade", "parallel"])
@pytest.mark.parametrize("run_idx", VARIANTS)
@pytest.mark.parametrize("pooling", ["maxpool", "last", "attention"])
def test_equals_the_reference(
    tmp_path: Path, alone: Any, form: str, run_idx: str, pooling: str
) -> None:
    reference = Reference(form=form, run_idx=run_idx, pooling=pooling)
    root = reference.save(tmp_path / "made")
    imported = import_released(root, fold=3, imagination=_form_option(form), missing_frames=MISSING)
    _check(imported, reference, alone)


@pytest.mark.parametrize("form", ["stage1", "parallel", "mmin"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_however_it_was_saved(
    tmp_path: Path, alone: Any, form: str, prefix: str, zipped: bool
) -> None:
    reference = Reference(form=form, run_idx=6, pooling=("last", "attention"), seed=2)
    root = reference.save(tmp_path / "made", prefix=prefix, zipped=zipped)
    imported = import_released(root, fold=3, imagination=_form_option(form), missing_frames=MISSING)
    architecture = imported.network.config.architecture
    assert (architecture.pooling, architecture.pooling_v) == ("last", "sum")
    _check(imported, reference, alone)


def test_the_published_sizes(tmp_path: Path, alone: Any) -> None:
    dims = {"A": 130, "V": 342, "L": 1024}
    reference = Reference(E=128, dims=dims, sizes=(256, 128, 64), form="parallel")
    root = reference.save(tmp_path / "made")
    imported = import_released(root, fold=3, imagination="parallel", missing_frames=MISSING)
    _check(imported, reference, alone)


@pytest.mark.parametrize("form", ["cascade", "parallel"])
def test_the_other_form_is_another_network(tmp_path: Path, alone: Any, form: str) -> None:
    reference = Reference(form=form)
    root = reference.save(tmp_path / "made")
    other = {"cascade": "parallel", "parallel": "cascade"}[form]
    imported = import_released(root, fold=3, imagination=other, missing_frames=MISSING)
    for pattern in ALL_PATTERNS:
        utterance = reference.utterance()
        found = _ours(imported.network, alone, utterance, pattern)
        assert abs(found - reference.logits(utterance, pattern)).max() > 1e-2


def _statistics(path: Path, fold: int = 3, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    mean, std = rng.normal(0, 3, dim), rng.uniform(0.5, 4, dim)
    with h5py.File(path, "w") as file:
        file[f"{fold}/mean"], file[f"{fold}/std"] = mean, std
    return mean, std


def test_statistics_of_the_fold_go_into_the_network(tmp_path: Path, alone: Any) -> None:
    mean, std = _statistics(tmp_path / "stats.h5")
    reference = Reference(pooling="last")
    imported = import_released(
        reference.save(tmp_path / "made"), fold=3, imagination="cascade", missing_frames=MISSING,
        statistics=tmp_path / "stats.h5",
    )  # fmt: skip
    assert not imported.network.config.features[MODALITIES[0]].normalised
    for pattern in ALL_PATTERNS:
        z = reference.utterance()
        raw = z | {"a": z["a"] * std + mean}
        found = _ours(imported.network, alone, raw, pattern)
        np.testing.assert_allclose(found, reference.logits(z, pattern), rtol=0, atol=1e-4)


def _import(root: Path, out: Path, *more: str, form: str | None = "cascade") -> int:
    named = ["--imagination", form] if form else []
    words = ["import-released", str(root), "--fold", "3", *named, "--out", str(out), *more]
    return train(words)


@pytest.mark.parametrize("form", ["stage1", "cascade", "parallel"])
def test_the_whole_way_to_the_device(tmp_path: Path, form: str, capsys: Any) -> None:
    reference = Reference(form=form, pooling=("maxpool", "last"))
    root, out = reference.save(tmp_path / "made", prefix="module."), tmp_path / "it.safetensors"
    named = _form_option(form)
    assert _import(root, out, "--missing-frames", MISSING_OPTION, form=named) == 0
    assert "fold 3" in capsys.readouterr().err
    assert export([str(out), "--pattern", "all", "--out", str(tmp_path / "bundle")]) == 0
    predictor = Predictor(tmp_path / "bundle")
    specs = predictor.bundle.manifest.modalities
    assert [specs[m].normalised for m in MODALITIES] == [True, False, False]
    assert (
        "already z-scored with the training statistics of fold 3" in specs[MODALITIES[0]].features
    )
    record = predictor.bundle.manifest.checkpoint.training
    assert record["imported"]["stage"] == (1 if form == "stage1" else 2)
    assert "/private/place" not in json.dumps(record)
    for pattern in ALL_PATTERNS:
        z = reference.utterance()
        found = predictor.predict({m.value: z[m.value].astype(np.float32) for m in pattern})
        np.testing.assert_allclose(found.logits, reference.logits(z, pattern), rtol=0, atol=1e-4)


def test_with_statistics_the_manifest_says_nothing_of_the_caller(tmp_path: Path) -> None:
    _statistics(tmp_path / "stats.h5")
    root, out = Reference().save(tmp_path / "made"), tmp_path / "it.safetensors"
    assert _import(root, out, "--statistics", str(tmp_path / "stats.h5")) == 0
    assert export([str(out), "--pattern", "a", "--out", str(tmp_path / "bundle")]) == 0
    spec = Predictor(tmp_path / "bundle").bundle.manifest.modalities[MODALITIES[0]]
    assert not spec.normalised
    assert "z-scored" not in spec.features
    assert spec.frame_rate == 10


def _corpus(root: Path, utterances: dict[str, Frames]) -> list[str]:
    """A fold in the released layout; the words that make `evaluate` read it."""
    for m in "avt":
        with h5py.File(root / f"{m}.h5", "w") as file:
            for name, utterance in utterances.items():
                file[name] = utterance[m]
    (root / "3").mkdir()
    for part, chosen in (("trn", (0, 1, 2, 3)), ("val", (4, 5)), ("tst", (6, 7))):
        np.save(root / "3" / f"{part}_label.npy", np.arange(len(chosen)))
        np.save(root / "3" / f"{part}_int2name.npy", np.array(list(utterances))[list(chosen)])
    recipe = msgspec.to_builtins(load_recipe("iemocap"))
    files = {m: {"file": f"{m}.h5"} for m in "avt"}
    files["a"]["standardise"] = "stats.h5"
    recipe["corpus"]["files"] = files
    (root / "made.yaml").write_text(json.dumps(recipe))
    return [
        "--recipe", str(root / "made.yaml"), "--features", str(root), "--targets", str(root)
    ]  # fmt: skip


@pytest.mark.parametrize("with_statistics", [True, False])
def test_evaluate_standardises_what_the_checkpoint_does_not(
    tmp_path: Path, with_statistics: bool
) -> None:
    reference, out = Reference(), tmp_path / "it.safetensors"
    mean, std = _statistics(tmp_path / "stats.h5")
    z = {f"u{i}": reference.utterance() for i in range(8)}
    corpus = _corpus(tmp_path, {n: u | {"a": u["a"] * std + mean} for n, u in z.items()})
    more = ["--statistics", str(tmp_path / "stats.h5")] if with_statistics else []
    root = reference.save(tmp_path / "made")
    assert _import(root, out, "--missing-frames", MISSING_OPTION, *more) == 0
    table = tmp_path / "answers.csv"
    assert train(["evaluate", str(out), *corpus, "--predictions", str(table)]) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 * len(ALL_PATTERNS)
    for row in rows:
        found = [float(row[label]) for label in ("angry", "happy", "neutral", "sad")]
        wanted = reference.logits(z[row["utterance"]], Pattern.parse(row["pattern"]))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_default_missing_frames_are_as_good_as_any(tmp_path: Path) -> None:
    root = Reference().save(tmp_path / "made")
    network = import_released(root, fold=3, imagination="cascade").network
    with torch.no_grad():
        for modality, length in zip(MODALITIES, (100, 50, 5), strict=True):
            assert network.config.features[modality].missing_length == length
            once, more = (network.missing_pooled(modality, n) for n in (length, 7 * length))
            assert float((once - more).abs().max()) < 1e-3


def test_the_epoch_is_chosen(tmp_path: Path, capsys: Any) -> None:
    first, second, out = Reference(seed=1), Reference(seed=2), tmp_path / "it.safetensors"
    root = first.save(tmp_path / "made", epoch=9)
    second.save(root, epoch=11)
    assert _import(root, out) == 2
    assert "has epochs 9, 11; choose one with --epoch" in capsys.readouterr().err
    assert _import(root, out, "--epoch", "9") == 0
    assert load_checkpoint(out)[1].training["imported"]["epoch"] == "9"
    assert _import(root, out, "--epoch", "11") == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert _import(root, out, "--epoch", "11", "--overwrite") == 0
    (root / "3" / "9_net_C.pth").unlink()
    assert _import(root, out, "--overwrite") == 0
    assert load_checkpoint(out)[1].training["imported"]["epoch"] == "11"


def test_the_forms_leave_traces(tmp_path: Path, capsys: Any) -> None:
    reference, out = Reference(form="parallel"), tmp_path / "it.safetensors"
    for key, value in reference.nets["AE"].items():
        if re.match(r"decoder_[01]\..*bias", key):
            value[:] = 0
    root = reference.save(tmp_path / "made", options={"model": "IFMMIN"})
    assert _import(root, out, form="parallel") == 0
    assert "warning" not in capsys.readouterr().err
    assert _import(root, out, "--overwrite", form="cascade") == 0
    assert "have only zero biases, as the parallel form keeps" in capsys.readouterr().err
    assert _import(root, out, "--overwrite", form=None) == 2
    assert "have only zero biases, as the parallel form keeps" in capsys.readouterr().err


def test_mmin_leaves_its_cycle_behind(tmp_path: Path, capsys: Any) -> None:
    reference, out = Reference(form="mmin"), tmp_path / "it.safetensors"
    reference.nets["AE_cycle"] = reference.nets["AE"]
    root = reference.save(tmp_path / "made", options={"model": "mmin"})
    assert _import(root, out, form=None) == 0
    assert "17_net_AE_cycle.pth has no part in an answer" in capsys.readouterr().err
    assert load_checkpoint(out)[0].config.architecture.model == "mmin"


Breaker = Callable[[Path, Reference], None]


def _options(**changes: Any) -> Breaker:
    def change(root: Path, reference: Reference) -> None:
        reference.save(root, options=changes)

    return change


def _net(name: str, **changes: Any) -> Breaker:
    """Change, add or (None) remove entries of a net."""

    def change(root: Path, reference: Reference) -> None:
        path = root / "3" / f"17_net_{name}.pth"
        content = torch.load(path, weights_only=True)
        for key, value in changes.items():
            content[key.replace("__", ".")] = value
        torch.save({k: v for k, v in content.items() if v is not None}, path)

    return change


def _file(name: str, content: Any) -> Breaker:
    def change(root: Path, reference: Reference) -> None:
        path = root / name
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)

    return change


def _nothing(root: Path, reference: Reference) -> None:
    pass


class Hostile:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("it_ran"),))


MISTAKES: dict[str, tuple[Breaker, list[str], str]] = {
    "form": (_nothing, ["-form"], r"autoencoder_2\.py of the code .*Here decoders before the last"),
    "fold": (_nothing, ["--fold", "4"], "has no fold 4; it has 3"),
    "epoch": (_nothing, ["--epoch", "5"], "has no epoch 5; it has 17"),
    "conf": (_file("train_opt.conf", None), [], "has no train_opt.conf; give checkpoints/NAME"),
    "json": (_file("train_opt.conf", b"{"), [], "train_opt.conf cannot be read as JSON"),
    "list": (_file("train_opt.conf", b"[1]"), [], "got a list, wanted an object"),
    "method": (_options(embd_method_a="mean"), [], "embd_method_a must be one of .* got 'mean'"),
    "variant": (_options(run_idx="V0200"), [], "shared_2.weight, but run_idx 'V0200' .* means 4"),
    "attends": (_options(embd_method_v="attention"), [], "key attention_vector_weight is missing"),
    "absent": (_file("3/17_net_V.pth", None), [], "17_net_V.pth is missing"),
    "mmin": (_file("3/17_net_invariant.pth", None), [], "without a net invariant this is an MMIN"),
    "unknown": (_file("3/17_net_D.pth", b""), [], r"17_net_D\.pth is not a file of this reference"),
    "mixed": (_file("3/17_net_Shared.pth", b""), [], "17_net_Shared.pth does not go with"),
    "empty": (_file("3/17_net_A.pth", b""), [], r"17_net_A\.pth cannot be read .*EOFError"),
    "text": (_file("3/17_net_A.pth", b"hello"), [], r"17_net_A\.pth cannot be read"),
    "hostile": (_file("3/17_net_A.pth", Hostile()), [], r"cannot be read .*UnpicklingError"),
    "tensor": (_file("3/17_net_A.pth", torch.ones(2)), [], "got Tensor, wanted a state_dict"),
    "nested": (_net("A", rnn={}), [], "key rnn holds a dict"),
    "nan": (_net("C", fc_out__bias=torch.full((4,), torch.nan)), [], "fc_out.bias .*not finite"),
    "int": (_net("C", fc_out__bias=torch.ones(4, dtype=torch.int64)), [], "bias holds torch.int64"),
    "norm": (_net("C", module__2__running_mean=torch.ones(9)), [], "running_mean is of batch norm"),
    "extra": (_net("L", conv4__bias=torch.ones(9)), [], "key conv4.bias is not expected"),
    "lacking": (_net("AE", encoder_1__2__bias=None), [], "key encoder_1.2.bias is missing"),
    "shape": (_net("AE", decoder_2__0__bias=torch.ones(3)), [], r"0.bias has shape \(3,\), wanted"),
    "widths": (_net("V", rnn__bias_ih_l0=torch.ones(28)), [], r"bias_ih_l0 has shape \(28,\)"),
    "axes": (_net("L", conv1__weight=torch.ones(6)), [], r"conv1.weight has shape \(6,\), wanted"),
    "labels": (_nothing, ["--labels", "a,b"], "got a,b, wanted 4 different names"),
    "frames": (_nothing, ["--missing-frames", "a=0"], "got 'a=0', wanted for example a=45"),
    "letter": (_nothing, ["--missing-frames", "x=3"], "unknown modality 'x'"),
    "twice": (_nothing, ["--missing-frames", "a=3,a=4"], "names a twice"),
    "short": (_nothing, ["--missing-frames", "t=4"], "missing_length of t must be at least 5"),
    "no file": (_nothing, ["--statistics", "none.h5"], "gives no mean and std for fold 3"),
    "utterance": (_options(norm_method="utt"), ["--statistics", "x"], "with the utterance's own"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(
    tmp_path: Path, capsys: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    break_it, words, message = MISTAKES[name]
    reference, root, out = Reference(), tmp_path / "made", tmp_path / "new" / "it.safetensors"
    reference.save(root)
    break_it(root, reference)
    form = None if "-form" in words else "cascade"
    assert _import(root, out, *[w for w in words if w != "-form"], form=form) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_mistakes_about_sums_settling_and_models(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "it.safetensors"
    summed = Reference(pooling=("maxpool", "attention")).save(tmp_path / "summed")
    assert _import(summed, out) == 2
    assert "a sum over time never settles; say how many frames" in capsys.readouterr().err
    assert _import(summed, out, "--missing-frames", "v=50") == 0
    out.unlink()
    slow = Reference(pooling="last")
    for key, value in slow.nets["A"].items():
        value[:] = 0
        if key.startswith("rnn.bias_ih"):
            value[6:12], value[12:18] = 9.0, 0.01  # gates that keep nearly all and add a little
    assert _import(slow.save(tmp_path / "slow"), out) == 2
    assert re.search(r"a missing a .* from 100 to 200 frames .* by 0\.\d", capsys.readouterr().err)
    lost = Reference(form="mmin").save(tmp_path / "lost", options={"model": "IFMMIN"})
    assert _import(lost, out, form=None) == 2
    assert "17_net_invariant.pth is missing and train_opt.conf says" in capsys.readouterr().err
    assert not out.exists()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_key_that_is_not_right_is_named(tmp_path: Path, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["stage1", "cascade", "parallel"]))
    reference = Reference(form=form, pooling="attention")
    name = data.draw(st.sampled_from(sorted(reference.nets)))
    net = reference.nets[name]
    key = data.draw(st.sampled_from(sorted(net)))
    if data.draw(st.booleans()):
        key += "_twin"
        net[key] = np.ones(3)
    elif data.draw(st.booleans()):
        net[key] = net[key][None]
    else:
        net[key] = np.full_like(net[key], np.inf)
    root = reference.save(tmp_path / "made", prefix=data.draw(st.sampled_from(["", "module."])))
    for stale in root.rglob("*.pth"):
        if stale.name.split("_net_")[1][:-4] not in reference.nets:
            stale.unlink()
    with pytest.raises(CheckpointError, match=rf"17_net_{name}.pth: key (module\.)?{key} "):
        import_released(root, fold=3, imagination=_form_option(form), missing_frames=MISSING)
