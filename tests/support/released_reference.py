"""The reference's equations in float64, and its checkpoint directories, for tests of the import.

Written from the method's description alone: it shares no code with the network that it judges.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_command import call

from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.cli import main as train
from ifmmin.train.reference.checkpoint import import_released

DIMS, FRAMES = {"A": 5, "V": 7, "L": 11}, {"A": 13, "V": 8, "L": 9}
LETTER = dict(zip("avt", "AVL", strict=True))
FORMS = ("cascade", "parallel")
"""Of the imagination, which only stage 2 of IF-MMIN has."""
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


def read_released(root: Path, form: str, **more: Any) -> Any:
    """Import fold 3 of a checkpoint."""
    return import_released(
        root, fold=3, imagination=form if form in FORMS else None, missing_frames=MISSING, **more
    )


def run_import(
    root: Path, out: Path, *more: object, form: str | None = "cascade", code: int = 0
) -> str:
    """Run `ifmmin-train import-released` on fold 3, which ends with a code; what it says."""
    named = ["--imagination", form] if form in FORMS else []
    ran = call(train, "import-released", root, "--fold", 3, *named, "--out", out, *more)
    assert ran.code == code, ran
    return ran.err
