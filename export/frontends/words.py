"""Encoder of words: a local BERT-like model becomes a front-end, checked against transformers.

The graph is written with ONNX Runtime's fused operators straight from the weights: token numbers
(T,) in, states (T, D) out, one text at a time and therefore without masks. In 8 bits the table of
pieces takes 4 bits a number, on a grid of its own per piece, and products have weights of 7 bits
per channel: 255 x 63 twice stays below 2^15, where processors without VNNI saturate. Ranges are
fixed by what comments need: found while running, they would carry the last digit of one
processor's float32 into all that follows.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ifmmin.runtime.errors import InputError, ParityError, one_line
from ifmmin.runtime.files import read_regular
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend, session
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec, folder_files
from ifmmin.runtime.frontends.wordpiece import WordPiece

from ..writer import write_files
from .ge2e import OPSET, GraphBuilder

Array = NDArray[Any]
Weights = dict[str, NDArray[np.float32]]
Ranges = list[tuple[Array, Array]]

VERSION = 1
TOLERANCE = 1e-4
"""Largest difference of a state to that of transformers."""
EIGHT_BITS_TOLERANCE = 0.2
"""Of the norm of features, on another processor, where a number at the edge of two levels falls to
the other. Between two versions of the engine one text in fifty differs, by .11 at most."""
RANGED = 500
"""Comments, at most, by which ranges are found."""
LOSS, FOLDS = 0.01, 5
"""UA that 8 bits may cost; parts of the comments."""
LEVELS = 63
FUSED = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
_MIDDLE = 7.5
_TINY = 1e-12
_SHARE = 0.85
_LEAST_DIVISOR = 0.01
_WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Encoder:
    """A BERT-like model of a local folder."""

    folder: Path
    weights: Weights
    layers: int
    heads: int
    epsilon: float
    longest: int
    """Pieces that it takes at once."""
    pieces: tuple[str, ...]
    lower_case: bool
    licence: str | None
    """As its README.md says."""

    @classmethod
    def read(cls, folder: Path) -> Encoder:
        """InputError where the folder holds none, or one of another architecture."""
        config = _json(folder / "config.json")
        wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for name, value in wanted.items():
            if config.get(name, value) != value:
                raise InputError(f"{folder}: got {name} {config[name]!r}, wanted {value!r} (BERT)")
        pieces, lower_case = _vocabulary(folder)
        weights = _weights(folder)
        try:
            rows = len(weights["embeddings.word_embeddings.weight"])
            encoder = cls(
                folder, weights, int(config["num_hidden_layers"]),
                int(config["num_attention_heads"]), float(config["layer_norm_eps"]),
                int(config["max_position_embeddings"]), pieces, lower_case, _licence(folder),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder}: it has no usable {one_line(error)}; no BERT") from error
        if rows < len(pieces):
            raise InputError(f"{folder}: {len(pieces)} pieces, but rows for only {rows} of them")
        return encoder


def _licence(folder: Path) -> str | None:
    """What the header of a model card says."""
    try:
        text = read_regular(folder / "README.md", InputError).decode()
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    return found and found.group(1)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, InputError))
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; wanted the folder of a model as transformers saves it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings")
    return content


def _vocabulary(folder: Path) -> tuple[tuple[str, ...], bool]:
    """Pieces in the order of their numbers, and whether case is dropped."""
    if (folder / "tokenizer.json").is_file():
        content = _json(folder / "tokenizer.json")
        if content.get("model", {}).get("type") != "WordPiece":
            raise InputError(f"{folder}: its tokenizer.json is not of WordPiece, as BERT's is")
        numbers = content["model"]["vocab"]
        pieces = sorted(numbers, key=numbers.__getitem__)
        lower_case = (content.get("normalizer") or {}).get("lowercase", True)
        if sorted(numbers.values()) != list(range(len(pieces))):
            raise InputError(f"{folder}: the pieces of its vocabulary are not numbered from 0 on")
        return tuple(pieces), bool(lower_case)
    try:
        text = read_regular(folder / "vocab.txt", InputError).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder}: no readable vocab.txt or tokenizer.json ({one_line(error)})"
        ) from error
    settings = folder / "tokenizer_config.json"
    lower_case = _json(settings).get("do_lower_case", True) if settings.is_file() else True
    return tuple(text.removesuffix("\n").split("\n")), bool(lower_case)


def _weights(folder: Path) -> Weights:
    """Names as in BertModel, whatever stood before them and however old they are."""
    path = next((folder / name for name in _WEIGHT_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: it has no {' or '.join(_WEIGHT_NAMES)}")
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        renamed = {
            name.removeprefix("bert.").replace("Norm.gamma", "Norm.weight")
            .replace("Norm.beta", "Norm.bias"): tensor.float().numpy()
            for name, tensor in found.items()
        }  # fmt: skip
    # Whatever a damaged archive or another pickle raises.
    except Exception as error:
        raise InputError(f"{path} holds no weights ({one_line(error)})") from error
    return renamed


class EncoderGraph(GraphBuilder):
    """The graph of an encoder while it is written."""

    def __init__(self, encoder: Encoder, ranges: Ranges | None = None) -> None:
        """ranges: of what goes into each product, for 8 bits; without them it is float32."""
        super().__init__()
        self._encoder, self._weights, self._ranges = encoder, encoder.weights, ranges
        self.factors: list[str] = []
        """What goes into each product, by name."""

    def states(self, layers: int) -> bytes:
        """The graph that gives the states after so many layers."""
        encoder, weights = self._encoder, self._weights
        words = weights["embeddings.word_embeddings.weight"][: len(encoder.pieces)]
        places = weights["embeddings.position_embeddings.weight"]
        places = places + weights["embeddings.token_type_embeddings.weight"][0]
        if self._ranges is not None:
            rows, positions = self._four_bits(words), self.weight(places)
        else:
            rows, positions = self.node("Gather", words, "ids"), self.constant(places)
        here = self.node("Slice", positions, np.array([0]), self.node("Shape", "ids"))
        batch = np.array([0])
        x = self.node("Unsqueeze", self.node("Add", rows, here), batch)
        norm = self._norm("embeddings")
        x = self.node("LayerNormalization", x, *norm, epsilon=encoder.epsilon)
        for layer in range(layers):
            x = self._layer(x, f"encoder.layer.{layer}.")
        return self._finish(self.node("Squeeze", x, batch), words.shape[1])

    def _layer(self, x: str, name: str) -> str:
        """Attention and two dense layers, each added to what went in (Vaswani et al. 2017)."""
        parts = [self._dense(f"{name}attention.self.{part}") for part in ("query", "key", "value")]
        weight, bias = (np.concatenate(both) for both in zip(*parts, strict=True))
        asked = self.node("Split", self._product(x, weight, bias), outputs=3, axis=2, num_outputs=3)
        heads = self._encoder.heads
        y = self.node("MultiHeadAttention", *asked, domain=FUSED, num_heads=heads)
        x = self._added(x, y, f"{name}attention.output")
        y = self._product(x, *self._dense(f"{name}intermediate.dense"))
        return self._added(x, self.node("Gelu", y, domain=FUSED), f"{name}output")

    def _added(self, x: str, y: str, name: str) -> str:
        weight, bias = self._dense(f"{name}.dense")
        inputs = (self._product(y, weight), x, *self._norm(name), bias)
        epsilon = self._encoder.epsilon
        return str(self.node("SkipLayerNormalization", *inputs, domain=FUSED, epsilon=epsilon))

    def _dense(self, name: str) -> tuple[Array, Array]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]

    def _norm(self, name: str) -> tuple[Array, Array]:
        return self._dense(f"{name}.LayerNorm")

    def _product(self, x: str, weight: Array, bias: Array | None = None) -> str:
        """x W' + b."""
        weight = weight.T
        added = () if bias is None else (bias,)
        self.factors.append(x)
        if self._ranges is None:
            y = self.node("MatMul", x, weight)
            return str(self.node("Add", y, *added) if added else y)
        low, high = self._ranges[len(self.factors) - 1]
        # Channels of wide range hand some of it to their weights (Xiao et al., ICML 2023).
        most, heaviest = np.maximum(-low, high), np.abs(weight).max(axis=1)
        share = most**_SHARE / np.maximum(heaviest, _TINY) ** (1 - _SHARE)
        divisor = np.maximum(share / np.median(share), _LEAST_DIVISOR).astype(np.float16)
        x = self.node("Div", x, self.weight(divisor))
        low, high, weight = (
            low / divisor,
            high / divisor,
            weight * divisor[:, None].astype(np.float32),
        )
        step = np.array((high.max() - low.min()) / 255, np.float32)
        zero = np.array(np.rint(-low.min() / step), np.uint8)
        scale = np.maximum(np.abs(weight).max(axis=0) / LEVELS, _TINY).astype(np.float32)
        levels = np.rint(weight / scale).astype(np.int8)
        x = self.node("QuantizeLinear", x, step, zero)
        inputs = (x, levels, step, scale, zero, "", *added)
        return str(self.node("MatMulIntegerToFloat", *inputs, domain=FUSED))

    def _four_bits(self, table: Array) -> str:
        """Rows of a table (V, D) of which a byte holds two numbers, D / 2 columns apart."""
        levels, step = four_bits(table)
        half = table.shape[1] // 2
        packed = levels[:, :half] | levels[:, half:] << 4
        row = self.node("Gather", packed, "ids")
        low = self.node("BitwiseAnd", row, np.array(15, np.uint8))
        high = self.node("BitShift", row, np.array(4, np.uint8), direction="RIGHT")
        both = self.node("Cast", self.node("Concat", low, high, axis=1), to=TensorProto.FLOAT)
        middle = self.node("Sub", both, np.array(_MIDDLE, np.float32))
        return str(self.node("Mul", middle, self.node("Gather", self.weight(step), "ids")))

    def _finish(self, states: str, dim: int) -> bytes:
        self._nodes.append(helper.make_node("Identity", [states], ["states"]))
        graph = helper.make_graph(
            self._nodes, "words",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])],
            [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["T", dim])],
            self._constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        model.producer_name = "ifmmin"
        return bytes(model.SerializeToString(deterministic=True))


def ranges_of(encoder: Encoder, layers: int, texts: Sequence[str]) -> Ranges:
    """Lowest and highest number in each channel (K,) of what goes into each product over some
    texts, zero among them."""
    pieces = {piece: number for number, piece in enumerate(encoder.pieces)}
    wordpiece = WordPiece(pieces, lower_case=encoder.lower_case)
    graph = EncoderGraph(encoder)
    model = onnx.load_from_string(graph.states(layers))
    for name in graph.factors:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    watched = session(model.SerializeToString())
    ranges: Ranges = [(np.zeros(1), np.zeros(1)) for _ in graph.factors]
    for text in texts:
        ids = np.array(wordpiece.encode(text, encoder.longest)[0])
        values = watched.run(graph.factors, {"ids": ids})
        ranges = [
            (np.minimum(low, value[0].min(axis=0)), np.maximum(high, value[0].max(axis=0)))
            for (low, high), value in zip(ranges, values, strict=True)
        ]
    return ranges


def four_bits(table: Array) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Levels 0 to 15 (V, D) and step (V, 1) of each row, so that (level - 7.5) step is near it: the
    step of 16 bits, of some fractions of the row's range, with the least squared difference."""
    reach = np.maximum(np.abs(table).max(axis=1, keepdims=True), _TINY) / _MIDDLE
    best = np.full_like(reach, np.inf)
    levels, step = np.zeros(table.shape, np.uint8), reach
    for part in np.linspace(0.4, 1, 13, dtype=np.float32):
        wide = (reach * part).astype(np.float16).astype(np.float32)
        tried = np.clip(np.floor(table / np.maximum(wide, _TINY)) + 8, 0, 15)
        error = np.square((tried - _MIDDLE) * wide - table).sum(axis=1, keepdims=True)
        better = error < best
        best = np.minimum(best, error)
        levels = np.where(better, tried, levels).astype(np.uint8)
        step = np.where(better, wide, step)
    return levels, step


def make_words(
    kind: str, folder: Path, out: Path, layers: int | None = None, comments: Path | None = None
) -> list[list[str]]:
    """Write the front-end of an encoder to the directory `out`; rows of what was checked.

    layers: whose last gives the states; all of them by default. comments: CSV (label, text) on
    which answers must stay when the encoder is put into 8 bits; without it, it is not.
    Raises InputError for a folder that holds no such encoder, and ParityError where the front-end
    is not what it was made from.
    """
    encoder = Encoder.read(folder)
    layers = encoder.layers if layers is None else layers
    if not 1 <= layers <= encoder.layers:
        raise InputError(f"--layers {layers}: {folder} has 1 to {encoder.layers}")
    labelled = None if comments is None else read_comments(comments)
    spec, files = _front_end(kind, encoder, layers)
    exact = opened(spec, files)
    difference = compare(exact, encoder, layers)
    rows = [["float32", "difference to transformers", f"{difference:.1e}", f"{TOLERANCE:g}"]]
    if labelled is not None:
        texts, labels = labelled
        ranges = ranges_of(encoder, layers, texts[:: -(-len(texts) // RANGED)])
        spec, files = _front_end(kind, encoder, layers, ranges)
        before, after, same = answers(exact, opened(spec, files), texts, labels)
        rows.append(["8 bits", "UA lost on the comments", f"{before - after:+.3f}", f"{LOSS:g}"])
        rows.append(["8 bits", "same answers", f"{same:.1%}", ""])
        if not before - after <= LOSS:
            raise ParityError(
                f"in 8 bits the encoder loses UA {before:.3f} -> {after:.3f} on {comments}, more "
                f"than {LOSS:g}; leave it in float32, or take another layer by --layers"
            )
    write_files(out, folder_files(spec, files))
    return rows


def _front_end(
    kind: str, encoder: Encoder, layers: int, ranges: Ranges | None = None
) -> tuple[FrontEndSpec, dict[str, bytes]]:
    contents = {
        "graph": EncoderGraph(encoder, ranges).states(layers),
        "vocabulary": "".join(f"{piece}\n" for piece in encoder.pieces).encode(),
    }
    names = {"graph": f"{kind}.onnx", "vocabulary": f"{kind}-vocabulary.txt"}
    settings = {
        "lower_case": encoder.lower_case, "longest": encoder.longest, "layer": layers,
        "precision": "fp32" if ranges is None else "int8",
    }  # fmt: skip
    spec = FrontEndSpec(
        kind=kind,
        version=VERSION,
        dim=encoder.weights["embeddings.word_embeddings.weight"].shape[1],
        frame_rate=None,
        features=f"states of the pieces of a text after layer {layers} of {encoder.layers}",
        settings=settings,
        files={role: FileEntry.of(names[role], content) for role, content in contents.items()},
        licence=encoder.licence,
        tolerance=TOLERANCE if ranges is None else EIGHT_BITS_TOLERANCE,
    )
    return spec, contents


def opened(spec: FrontEndSpec, contents: dict[str, bytes]) -> FrontEnd:
    """The front-end, from memory."""
    by_name = {spec.files[role].file: content for role, content in contents.items()}
    return open_frontend(spec, lambda entry: by_name[entry.file])


PROBES = (
    "I can't believe it!",
    "no",
    "Caf\u00e9 \u00c5NGSTR\u00d6M na\u00efve \u6211\u5f88\u9ad8\u5174 3.14 $5",
    "Oh \U0001f600 well\u2026 [SEP] un\u00adhappi\u200bness\u0300",
    "so very " * 40,
    "so very glad " * 100,
)
"""Texts short and long, with accents, ideographs, an emoji, controls and a special token."""


def compare(frontend: FrontEnd, encoder: Encoder, layers: int) -> float:
    """Largest difference of its states to those that transformers computes; ParityError where it
    is above the tolerance or the pieces are others."""
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            f"what is made is checked against transformers, which is not there ({error}); run "
            "pip install 'ifmmin[words]'"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    tokenizer = AutoTokenizer.from_pretrained(encoder.folder, local_files_only=True)
    model = AutoModel.from_pretrained(encoder.folder, local_files_only=True).eval().float()
    largest = 0.0
    for text in PROBES:
        tokens = tokenizer(
            text, truncation=True, max_length=encoder.longest, return_tensors="pt"
        )  # fmt: skip
        with torch.no_grad():
            wanted = model(**tokens, output_hidden_states=True).hidden_states[layers][0].numpy()
        states = frontend.whole(text)
        if states.shape != wanted.shape:
            raise ParityError(
                f"{text[:40]!a} has {len(states)} pieces here, {len(wanted)} by transformers: "
                f"the tokeniser of {encoder.folder} is not BERT's"
            )
        largest = max(largest, float(np.abs(states - wanted).max()))
    if not largest <= TOLERANCE:
        raise ParityError(f"states differ from those of transformers by {largest:.1e}")
    return largest


def read_comments(path: Path) -> tuple[list[str], Array]:
    """Texts and labels of a CSV with those columns; InputError where it has none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path}: wanted a CSV in UTF-8 with columns label and text ({one_line(error)})"
        ) from error
    labels = np.array([label for _, label in rows])
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < FOLDS:
        raise InputError(f"{path}: wanted two labels or more with {FOLDS} comments each")
    return [text for text, _ in rows], labels


def answers(
    exact: FrontEnd, tried: FrontEnd, texts: Sequence[str], labels: Array
) -> tuple[float, float, float]:
    """UA of both, and the share of the same answers: logistic regression on the means and extremes
    of states, each part of the comments answered by a fit on the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    fit = LogisticRegression(C=0.001, max_iter=200, class_weight="balanced")
    said = [
        cross_val_predict(make_pipeline(StandardScaler(), fit), pooled, labels, cv=folds)
        for pooled in (
            [_pooled(frontend.whole(text)) for text in texts] for frontend in (exact, tried)
        )
    ]
    before, after = (float(recall_score(labels, each, average="macro")) for each in said)
    return before, after, float(np.mean(said[0] == said[1]))


def _pooled(states: Array) -> Array:
    """Zeros for a text without words."""
    if not len(states):
        return np.zeros(3 * states.shape[1], np.float32)
    return np.concatenate([states.mean(axis=0), states.max(axis=0), states.min(axis=0)])
