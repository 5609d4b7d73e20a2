"""Corpora in a pickle, as MMSA and its kin pass them on: train, valid and test, each a dictionary
of text, audio, vision and labels. Nothing that a pickle names is imported or run."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.console import printable
from ifmmin.runtime.errors import CorpusError, one_line
from ifmmin.runtime.files import read_regular, require_size
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import check_labels
from ifmmin.runtime.validate import as_numbers

from ..config import FeatureConfig, require_modalities
from .corpus import PARTS, Corpus, Utterance
from .labels import check_edges, read_targets

_PARTS = dict(zip(PARTS, ("train", "valid", "test"), strict=True))
_SCORES = ("regression_labels", "labels")
_CLASSES = ("annotations", "classification_labels", "labels")
_KEYS = {Modality.A: "audio", Modality.V: "vision", Modality.T: "text"}
_TEXT_LENGTH = 5
_PLAIN = (str, bytes, int, float, np.generic)


class PickledLayout(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pickled",
    tag_field="layout",
):  # fmt: skip
    """A corpus in one pickle."""

    name: str
    """What tables and messages call it."""
    labels: tuple[str, ...]
    """Names of the classes; with `bins` from the lowest scores to the highest."""
    file: str
    """The pickle, relative to the feature root."""
    keys: dict[Modality, str] = msgspec.field(default_factory=_KEYS.copy)
    """Names of the arrays (utterances, frames, dim) in each part; default: audio, vision, text."""
    target: str | None = None
    """Name of the labels; none: regression_labels or labels where there are `bins`, else
    annotations, classification_labels or labels."""
    bins: tuple[float, ...] = ()
    """Edges between the classes where labels are real-valued scores; a score on an edge is of the
    class above it."""
    folds: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_modalities("keys", self.keys)
        check_labels(self.labels)
        check_edges(self.bins, self.labels)


def read_pickled(
    layout: PickledLayout,
    *,
    features: Path | None,
    fold: int,
    modalities: Collection[Modality] | None,
) -> Corpus:
    """The corpus as it is, sound or not, without statistics."""
    if features is None:
        raise CorpusError(f"corpus {layout.name} is read from {layout.file}; give --features")
    if fold != 1:
        raise CorpusError(f"corpus {layout.name} has one fold, got fold {fold}")
    path = features / layout.file
    content = _load(path)
    keys = {m: key for m, key in layout.keys.items() if modalities is None or m in modalities}
    if not isinstance(content, dict) or not set(_PARTS.values()) <= content.keys():
        raise CorpusError(
            f"{path}: got {_keys(content)}, wanted a dictionary of {', '.join(_PARTS.values())}"
        )
    parts, dims = {}, dict[Modality, int]()
    for part, name in _PARTS.items():
        where, given = f"{path}: {name}", content[name]
        if not isinstance(given, dict):
            raise CorpusError(f"{where}: got {_keys(given)}, wanted a dictionary of arrays")
        arrays = {m: _frames(given, key, where) for m, key in keys.items()}
        for m, array in arrays.items():
            if dims.setdefault(m, array.shape[2]) != array.shape[2]:
                raise CorpusError(
                    f"{where}: {keys[m]} has {array.shape[2]} numbers a frame, wanted {dims[m]} as "
                    "in train"
                )
        parts[part] = _utterances(layout, given, arrays, keys, part, where)
    described = {
        m: FeatureConfig(dim=dim, missing_length=_TEXT_LENGTH)
        if m is Modality.T
        else FeatureConfig(dim=dim)
        for m, dim in dims.items()
    }
    whole = len(keys) == len(layout.keys)
    parts = {part: [u for u in some if u.features or whole] for part, some in parts.items()}
    return Corpus(layout.name, layout.labels, described, parts, bins=layout.bins)


def _utterances(
    layout: PickledLayout,
    given: Mapping[Any, Any],
    arrays: Mapping[Modality, NDArray[Any]],
    keys: Mapping[Modality, str],
    part: str,
    where: str,
) -> list[Utterance]:
    """Those of one part, whose arrays are of one length."""
    known = _SCORES if layout.bins else _CLASSES
    wanted = [layout.target] if layout.target is not None else known
    key = next((key for key in wanted if key in given), None)
    if key is None:
        raise CorpusError(
            f"{where} has none of {', '.join(wanted)}, only {_keys(given)}; say by corpus.target "
            "where its labels are"
        )
    labels = _items(given[key], f"{where}: {key}")
    names = _names(given.get("id"), len(labels), part, f"{where}: id")
    lengths = {m: _lengths(given, keys[m], m, array, where) for m, array in arrays.items()}
    for what, count in [
        ("id", len(names)),
        *((keys[m], len(array)) for m, array in arrays.items()),
        *((f"lengths of {keys[m]}", len(some)) for m, some in lengths.items() if some is not None),
    ]:
        if count != len(labels):
            raise CorpusError(f"{where}: {len(labels)} {key}, but {count} {what}")
    targets = read_targets(names, labels, layout.labels, layout.bins, f"{where}: {key}")
    made = []
    for row, (name, (label, score)) in enumerate(zip(names, targets, strict=True)):
        features = {
            m: cut
            for m, array in arrays.items()
            if len(cut := _cut(array[row], None if (n := lengths[m]) is None else n[row]))
        }
        made.append(Utterance(name, features, label, score))
    return made


def _cut(frames: NDArray[Any], length: int | None) -> NDArray[np.floating]:
    """The frames (T, D) that are no padding; none where all are zero.

    -inf, which COVAREP writes for the logarithm of nothing, becomes 0, as the field reads it.
    """
    with np.errstate(over="ignore"):  # infinite then, and told as such
        compact = np.float16 if frames.dtype == np.float16 else np.float32
        kept: NDArray[np.floating] = frames[:length].astype(compact)
    kept[np.isneginf(kept)] = 0
    some = np.flatnonzero(kept.any(axis=1))
    if not len(some):
        return kept[:0]
    return kept if length is not None else kept[some[0] : some[-1] + 1]


def _frames(given: Mapping[Any, Any], key: str, where: str) -> NDArray[Any]:
    """An array (N, T, D) of numbers."""
    if key not in given:
        raise CorpusError(
            f"{where} has no {key}, only {_keys(given)}; say by corpus.keys where the features are"
        )
    found = given[key]
    array = found.array if isinstance(found, _Array) else None
    if array is None or array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        got = "arrays of several shapes" if isinstance(found, _Array | list) else _keys(found)
        got = got if array is None else f"an array {array.shape} of {array.dtype}"
        raise CorpusError(
            f"{where}: {key}: got {got}, wanted one array (utterances, frames, dim) of numbers, "
            f"padded with zeros; {key}_lengths beside it may say how many are frames"
        )
    return array[:, None] if array.ndim == 2 else array


def _lengths(
    given: Mapping[Any, Any], key: str, modality: Modality, array: NDArray[Any], where: str
) -> list[int] | None:
    """Frames of each utterance, where the part says them."""
    name = f"{key}_lengths"
    if name in given:
        given_lengths = as_numbers(_items(given[name], f"{where}: {name}"), name, CorpusError)
        if given_lengths.dtype.kind not in "iu":
            raise CorpusError(f"{where}: {name}: got {given_lengths.dtype}, wanted whole numbers")
        found = given_lengths.reshape(-1).tolist()
    elif modality is Modality.T and isinstance(tokens := given.get("text_bert"), _Array):
        bert = tokens.array  # (N, 3, T): tokens, mask, segment
        if bert is None or bert.ndim != 3 or bert.shape[1:] != (3, array.shape[1]):
            return None
        name, found = "text_bert", (bert[:, 1] != 0).sum(axis=1).tolist()
    else:
        return None
    if not all(0 <= n <= array.shape[1] for n in found):
        raise CorpusError(f"{where}: {name}: wanted 0 to {array.shape[1]}, the frames of {key}")
    return found


def _names(given: Any, count: int, part: str, where: str) -> list[str]:
    """Names of utterances; columns, such as a video and its seconds, are joined."""
    if given is None:
        return [f"{part}-{number}" for number in range(1, count + 1)]
    found = []
    for one in _items(given, where):
        columns = one.reshape(-1).tolist() if isinstance(one, np.ndarray) else [one]
        texts = [c.decode("utf-8", "replace") if isinstance(c, bytes) else str(c) for c in columns]
        found.append("_".join(texts))
    return found


def _items(given: Any, where: str) -> Sequence[Any]:
    """A list or an array by utterance, whose items are plain or rows of an array."""
    items = given
    if isinstance(given, _Array):
        items = given.array if given.array is not None else given.rows
    if isinstance(items, np.ndarray) and items.ndim:
        return list(items)
    if isinstance(items, list):
        plain = [one.array if isinstance(one, _Array) else one for one in items]
        if all(isinstance(one, (*_PLAIN, np.ndarray)) for one in plain):
            return plain
    raise CorpusError(f"{where}: wanted an array or a list with an item for each utterance")


def _keys(given: object) -> str:
    """What a dictionary holds, for messages."""
    if not isinstance(given, dict):
        return "no dictionary"
    return printable(", ".join(str(key)[:40] for key in given)[:199]) or "nothing"


class _Array:
    """An array as a pickle describes it; NumPy itself would trust what that says of memory."""

    __slots__ = ("array", "rows")

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None
        """Of numbers or text; None where it holds objects."""
        self.rows: list[Any] | None = None
        """Those by row, where they are plain."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        self.fill(content, kind, shape, "F" if by_column else "C")

    def fill(self, content: Any, kind: Any, shape: Any, order: str) -> None:
        """Take numbers or text from bytes, or a list of objects."""
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array without its type and shape")
        if kind.code is None:
            if all(isinstance(one, _PLAIN) for one in content):
                rows = np.empty(len(content), dtype=object)
                rows[:] = content
                self.rows = list(rows.reshape(shape, order="F" if order == "F" else "C"))
            return
        data = content.encode("latin1") if isinstance(content, str) else content
        flat = np.frombuffer(data, dtype=np.dtype(kind.code)) if len(data) else np.empty(0, "f4")
        self.array = flat.reshape(shape, order="F" if order == "F" else "C")


class _Type:
    """A type of numbers or text; `code` is None where it is of objects."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: object) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>|=]?[fiubUSO]\d{1,9}", code):
            raise pickle.UnpicklingError(f"an array of {code[:20]!r}, wanted numbers or text")
        self.code: str | None = None if "O" in code else code.lstrip("<>|=")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if self.code is not None and order in ("<", ">"):
            self.code = order + self.code


class _Maker:
    """What stands in a pickle's place for a function, so that nothing can be set on one."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _scalar(kind: Any, content: Any = b"") -> Any:
    made = _Array()
    made.fill(content, kind, (1,), "C")
    if made.array is None:
        raise pickle.UnpicklingError("a number that is an object")
    return made.array[0]


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.fill(content, kind, shape, order)
    return made


class _Reader(pickle.Unpickler):
    """Takes NumPy's arrays and plain containers, by stand-ins of our own, and refuses the rest."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path, self._made = path, len(content)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; UnpicklingError where nothing may."""
        place = re.sub(r"^numpy\._?core\.", "numpy.core.", module)
        found = {
            ("numpy", "ndarray"): _Maker(_refuse),
            ("numpy", "dtype"): _Maker(_Type),
            ("numpy.core.multiarray", "_reconstruct"): _Maker(lambda *_: _Array()),
            ("numpy.core.multiarray", "scalar"): _Maker(_scalar),
            ("numpy.core.numeric", "_frombuffer"): _Maker(_from_buffer),
            ("_codecs", "encode"): _Maker(self._encode),
            ("collections", "OrderedDict"): OrderedDict,
        }.get((place, name))
        if found is None:
            raise pickle.UnpicklingError(
                f"it names {printable(f'{module}.{name}'[:80])}, wanted NumPy's arrays, lists, "
                "dictionaries and text alone: save it anew from those"
            )
        return found

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Bytes, as Python 3 writes them for Python 2; of one text many could be made."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an encoding that no pickle uses")
        self._made += len(text)
        require_size(self._made, self._path, CorpusError)
        return text.encode("latin1")


def _refuse(*_: object) -> Any:
    raise pickle.UnpicklingError("an array that is made otherwise than NumPy saves it")


_MOST_TUPLES = 50_000
"""Of which one within another, as a key, would run out of stack."""


def _load(path: Path) -> Any:
    """What a pickle holds. CorpusError in one line where that is anything but plain data."""
    try:
        content = read_regular(path, CorpusError)
    except OSError as error:
        reason = error.strerror or error
        raise CorpusError(f"{path} cannot be read ({reason}); is --features right?") from error
    try:
        tuples = 0
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            tuples += "TUPLE" in operation.name
            if tuples > _MOST_TUPLES:
                raise pickle.UnpicklingError("too many small arrays or tuples, wanted large arrays")
            if "PUT" in operation.name and int(str(argument)) > number:
                raise pickle.UnpicklingError("it asks for more memory than it can need")
        return _Reader(content, path).load()
    except CorpusError:
        raise
    except Exception as error:  # whatever a broken or hostile pickle raises
        raise CorpusError(
            f"{path} cannot be read as a pickle of plain data: {one_line(error)}"
        ) from error
