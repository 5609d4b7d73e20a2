"""Scoring: very many inputs by Ray Data, in parts that are whole or absent, on one machine or many.

A part is a Parquet file of one row per input. Who scores a part writes it in one step, so that a
machine that dies leaves no half of one; the part is then scored again, and a run that is repeated
scores those that are not there. What ends a run is said as data: Ray tells an exception at length.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import msgspec

from .bundle import Bundle
from .cli.readers import Signals, find_inputs
from .cli.recordings import is_sound
from .errors import BackendUnavailable, IfmminError, InputError, one_line
from .files import atomic_directory, atomic_file, read_regular
from .modality import Pattern
from .prediction import Prediction
from .process import unforked
from .recognizer import Recognizer

PART = 256
"""Inputs of a part."""
_PLAN_NAME = "scoring.json"
_PLAN_BYTES = 1 << 16
_COLUMNS = ("id", "path", "sound", "text")
_BUFFER = 1 << 20
"""Bytes of a column of Parquet that are read ahead: row groups may be large."""
_ANSWERING = ("precision", "on_empty", "policy")
"""Options that have a say in the answers."""
_BLOCKS = 1000
"""Shares of the work that Ray hands out, at some 5 ms each."""
_TRIES = ".tries"
"""Suffix of a file beside a part that is worked at: a byte per attempt."""
_ATTEMPTS = 4
"""At a part; Ray itself would try for ever."""
_Work = dict[str, Any]
"""A part: its number and its inputs, as `[name, path]`, or `file` and `row_group` of Parquet."""


def score(
    inputs: Sequence[Path], out: Path, bundle: Path, pattern: Pattern | None = None, **options: Any
) -> tuple[int, int]:
    """Score recordings, .npz files, directories of both, or Parquet; the rows, and how many failed.

    out: a directory of `part-*.parquet` with id, label, a column per class, pattern, seconds and
    error. pattern: modalities to use; None: what is present. options: of the recognizers.
    Parquet has `id` and `sound` (the bytes of a file) or `path`, and may have `text`. Raises
    InputError for inputs that are none, or another `out`; BackendUnavailable without Ray; what
    hinders every input; IfmminError where parts are missing at the end.
    """
    out, bundle = out.absolute(), bundle.absolute()
    parts = list(_parts(inputs))
    Bundle(bundle)  # which ends here where it is none
    told = [repr(options.get(name)) for name in _ANSWERING]
    hears = options.get("transcribe") is not None
    _require_same(out, parts, bundle, [str(pattern), *told, str(hears)])
    todo = [part for part in parts if not _place(out, part["part"]).is_file()]
    if todo:
        ray = start_ray(None)
        for tries in out.glob(f".*{_TRIES}"):
            tries.unlink()
        try:
            _score_all(ray, todo, out, bundle, pattern, options)
        finally:
            ray.shutdown()
    missing = [part for part in parts if not _place(out, part["part"]).is_file()]
    if missing:
        raise IfmminError(
            f"{len(missing)} of {len(parts)} parts are missing, the first {_named(missing[0])}: "
            f"the processes that scored them died, {_ATTEMPTS} times each, for want of memory or "
            "by an input; the same command tries these again"
        )
    import pyarrow.parquet as parquet

    rows = failed = 0
    for part in parts:
        errors = parquet.read_table(_place(out, part["part"]), columns=["error"])["error"]
        rows, failed = rows + len(errors), failed + len(errors) - errors.null_count
    return rows, failed


def start_ray(cpus: int | None) -> Any:
    """Ray, which is told nothing of who uses it: the cluster of RAY_ADDRESS, or one here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable(
            f"--executor ray cannot run here ({error}); pip install 'ifmmin[ray]'"
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"num_cpus": cpus, "include_dashboard": False, "address": "local"}
    ended = signal.getsignal(signal.SIGTERM)
    try:
        with unforked(silent=True):  # it greets
            ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"Ray did not start: {last_line(error)}; is RAY_ADDRESS right? Without --executor ray "
            "none is needed"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended)  # Ray's own prints a stack
    return ray


def last_line(error: Exception) -> str:
    """What an error says; Ray puts the cause behind the traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _score_all(ray: Any, todo: list[_Work], out: Path, bundle: Path, *rest: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_consecutive_actor_init_deaths = _ATTEMPTS
    most = int(ray.cluster_resources().get("CPU", 1))
    made = ray.data.from_items(
        [{"work": msgspec.json.encode(part)} for part in todo],
        override_num_blocks=min(len(todo), _BLOCKS),
    ).map_batches(
        Scorer, batch_size=1, batch_format="numpy", num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        fn_constructor_args=(out, bundle, *rest),
    )  # fmt: skip
    for name in ("ray", "ray.data"):  # it sets them up as it makes the first
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        hindered = next((x for row in made.iter_rows() if (x := row["hindered"])), "")
    except Exception as error:  # of many kinds, and not of ours
        raise IfmminError(
            f"Ray gave up: {one_line(error)}; the same command goes on from the parts that are done"
        ) from error
    if hindered:
        raise IfmminError(hindered)


class Scorer:
    """Scores parts; each process of Ray has one."""

    def __init__(
        self, out: Path, bundle: Path, pattern: Pattern | None, options: Mapping[str, Any]
    ) -> None:
        self._out, self._pattern = out, pattern
        self._open = partial(Recognizer, bundle, **options)
        self._recognizer: Recognizer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the part of every row; what hindered it, such as a backend that is not there."""
        hindered = []
        for content in batch["work"]:
            try:
                self._try(msgspec.json.decode(bytes(content)))
                hindered.append("")
            except IfmminError as error:
                hindered.append(_told(error))
        return {"hindered": hindered}

    def _try(self, work: _Work) -> None:
        """Write a part, unless it is there or has ended too many processes."""
        place = _place(self._out, work["part"])
        if place.is_file():  # the one before this process had written it
            return
        tries = place.with_name(f".{place.stem}{_TRIES}")
        with tries.open("ab") as file:
            file.write(b".")
            exhausted = file.tell() > _ATTEMPTS
        if not exhausted:
            self._write(work, place)
            tries.unlink()

    def _write(self, work: _Work, place: Path) -> None:
        """Write a part. Raises what hinders every input in it, and is no fault of theirs."""
        import pyarrow
        import pyarrow.parquet as parquet

        recognizer = self._recognizer = self._recognizer or self._open()
        labels = recognizer.labels
        schema = pyarrow.schema(
            [("id", pyarrow.string()), ("label", pyarrow.string()),
             *((label, pyarrow.float32()) for label in labels), ("pattern", pyarrow.string()),
             ("seconds", pyarrow.float64()), ("error", pyarrow.string())]
        )  # fmt: skip
        hindered: IfmminError | None = None
        answered = False
        with atomic_file(place) as part, parquet.ParquetWriter(part, schema) as writer:
            for some in _inputs(work):
                rows = []
                for name, given in some:
                    row: dict[str, Any] = dict.fromkeys(schema.names) | {"id": name}
                    try:
                        found = self._answer(recognizer, given)
                    except Exception as error:  # whatever it is, the others are to be answered
                        row["error"] = _told(error)
                        if isinstance(error, IfmminError) and not isinstance(error, InputError):
                            hindered = error
                    else:
                        answered = True
                        row |= zip(labels, found.probabilities.tolist(), strict=True)
                        row |= {"label": found.label, "pattern": str(found.pattern)}
                        row["seconds"] = found.seconds
                    rows.append(row)
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            if hindered is not None and not answered:
                raise IfmminError(
                    f"no input of {_named(work)} could be answered: {hindered}"
                ) from hindered

    def _answer(self, recognizer: Recognizer, given: Any) -> Prediction:
        if isinstance(given, InputError):
            raise given
        if isinstance(given, dict):
            with _as_file(given["sound"]) as sound:
                return self._recognize(recognizer, Signals(sound, given["text"]))
        if not given.exists():  # where it was listed it was
            raise IfmminError(f"{given} is not to be seen from here")
        (lazy,) = find_inputs([str(given)]).items()
        sample = lazy.read()
        if sample.signals is not None:
            return self._recognize(recognizer, sample.signals)
        return recognizer.predictor.predict(
            sample.utterance, pattern=self._pattern, quality=sample.quality,
            frontends=sample.frontends,
        )  # fmt: skip

    def _recognize(self, recognizer: Recognizer, given: Signals) -> Prediction:
        taken = given.of(recognizer.modalities)
        return recognizer.recognize(
            sound=taken.sound, text=taken.text, face=taken.face, pattern=self._pattern
        )


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, IfmminError) else f"{type(error).__name__}: {text}"


def _place(out: Path, number: int) -> Path:
    return out / f"part-{number:06d}.parquet"


def _parts(inputs: Sequence[Path]) -> Iterator[_Work]:
    """All parts, numbered, the same for the same inputs."""
    paths: list[Path] = []
    number = 0
    for given in inputs:
        if not given.exists():
            raise InputError(f"no input at {given}; give recordings, .npz, Parquet or directories")
        if (given / "manifest.json").is_file():
            raise InputError(f"{given} is a bundle, not an input; name it by -b {given}")
        inside = sorted(given.iterdir()) if given.is_dir() else [given]
        some = [p for p in inside if is_sound(p) or p.suffix == ".npz"]
        tables = [p for p in inside if p.suffix == ".parquet"]
        if not some and not tables:
            raise InputError(
                f"{given} is no recording, .npz or Parquet, nor a directory of any; Ray takes those"
            )
        paths += some
        for table in tables:
            for group in range(_groups(table)):
                yield {"part": number, "file": str(table.absolute()), "row_group": group}
                number += 1
    for first in range(0, len(paths), PART):
        part = [[_name(p), str(p.absolute())] for p in paths[first : first + PART]]
        yield {"part": number, "inputs": part}
        number += 1
    if not number:
        raise InputError("no input; give recordings, .npz, Parquet or directories of them")


def _name(path: Path) -> str:
    """As `ifmmin-run` has it without Ray."""
    return path.stem if path.suffix == ".npz" else path.name


def _named(work: _Work) -> str:
    """A part, for people."""
    if "inputs" in work:
        return f"{work['inputs'][0][1]} and {len(work['inputs']) - 1} more"
    return f"{work['file']}, row group {work['row_group']}"


def _groups(table: Path) -> int:
    """Row groups of a Parquet file. InputError where it is none, or has other columns."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BackendUnavailable(
            f"Parquet needs pyarrow ({error}); pip install 'ifmmin[ray]'"
        ) from error
    try:
        with parquet.ParquetFile(table) as file:
            schema, groups = file.schema_arrow, int(file.metadata.num_row_groups)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{table} is no Parquet: {last_line(error)}") from error
    names = set(schema.names)
    if "id" not in names or not names & {"path", "sound", "text"}:
        raise InputError(
            f"{table}: got columns {', '.join(sorted(names))}, wanted id and some of path, sound "
            "and text"
        )
    for name in names & {"path", "sound", "text"}:
        kind = schema.field(name).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        wanted = "binary" if name == "sound" else "string"
        if str(kind).removeprefix("large_") not in (wanted, f"{wanted}_view", "null"):
            raise InputError(f"{table}: got {name} of type {kind}, wanted {wanted}")
    return groups


def _inputs(work: _Work) -> Iterator[list[tuple[str | None, Any]]]:
    """Names and inputs of a part, some at a time: a path, a row, or why there is none."""
    if "inputs" in work:
        yield [(name, Path(path)) for name, path in work["inputs"]]
        return
    import pyarrow
    import pyarrow.parquet as parquet

    path, group = Path(work["file"]), work["row_group"]
    try:
        file = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise IfmminError(f"{path} cannot be read: {last_line(error)}") from error
    with file:
        left = file.metadata.row_group(group).num_rows
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        batches = file.iter_batches(PART, row_groups=[group], columns=columns)
        while left:
            try:
                some = next(batches).to_pylist()
            except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
                told = InputError(f"{_named(work)} cannot be read: {last_line(error)}")
                yield [(None, told)] * left
                return
            yield [(_text(row["id"]), _row(row, path.parent)) for row in some]
            left -= len(some)


def _text(name: object) -> str | None:
    return None if name is None else str(name)


def _row(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = row.get("path")
    sound = row.get("sound") if path is None else folder / path
    return {"sound": sound, "text": row.get("text")}


@contextmanager
def _as_file(sound: Any) -> Iterator[Any]:
    """Bytes of a file of sound as such a file."""
    if not isinstance(sound, bytes):
        yield sound
        return
    with NamedTemporaryFile(prefix="ifmmin-") as file:
        file.write(sound)
        file.flush()
        yield Path(file.name)


def _require_same(out: Path, parts: Sequence[_Work], bundle: Path, options: list[str]) -> None:
    """Make the directory, or see that it is of these inputs, this bundle and these options."""
    manifest = read_regular(bundle / "manifest.json", InputError, 1 << 26)
    plan = hashlib.sha256(manifest + msgspec.json.encode([options, list(parts)])).hexdigest()
    content = msgspec.json.encode({"plan": plan, "parts": len(parts)})
    path = out / _PLAN_NAME
    if path.is_file():
        if read_regular(path, InputError, _PLAN_BYTES) != content:
            raise InputError(
                f"{out} holds answers for other inputs, options or another bundle; name another"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other things; name a new directory")
    else:
        with atomic_directory(out) as folder:
            (folder / _PLAN_NAME).write_bytes(content)
