"""Scoring: very many inputs by Ray Data, in parts that are whole or absent, on one machine or many.

A part is a Parquet file of one row per input. Who scores a part writes it in one step, so that a
machine that dies leaves no half of one; the part is then scored again, and a run that is repeated
scores those that are not there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import msgspec

from .errors import BackendUnavailable, IfmminError, InputError
from .files import atomic_directory, atomic_file, read_regular
from .modality import Modality
from .recognizer import Recognizer

PART = 256
"""Inputs of a part."""
_PLAN_NAME = "scoring.json"
_PLAN_BYTES = 1 << 16
_COLUMNS = {"path", "sound", "text"}
_Work = dict[str, Any]
"""A part: its number and its inputs, as `[name, path]`, or `file` and `row_group` of Parquet."""


def score(
    inputs: Sequence[Path],
    out: Path,
    bundle: Path,
    options: Mapping[str, Any],
    workers: int | None = None,
) -> tuple[int, int]:
    """Score recordings, .npz files, directories of both, or Parquet; the rows, and how many failed.

    out: a directory of `part-*.parquet` with id, label, a column per class, pattern, seconds and
    error. bundle, options: of the recognizers. workers: at a time; default: one per processor.
    Parquet has `id` and `sound` (the bytes of a file) or `path`, and may have `text`. Raises
    InputError for inputs that are none, or another `out`; BackendUnavailable without Ray.
    """
    parts = list(_parts(inputs))
    _require_same(out, parts, bundle)
    todo = [part for part in parts if not _place(out, part["part"]).is_file()]
    if todo:
        ray = start_ray(workers)
        _score_all(ray, todo, out, bundle, options, workers)
        ray.shutdown()
    import pyarrow.parquet as parquet

    rows = failed = 0
    for part in parts:
        errors = parquet.read_table(_place(out, part["part"]), columns=["error"])["error"]
        rows, failed = rows + len(errors), failed + len(errors) - errors.null_count
    return rows, failed


def start_ray(cpus: int | None) -> Any:
    """Ray, which is told nothing of who uses it: the cluster of RAY_ADDRESS, or one here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"Ray did not start: {last_line(error)}; is RAY_ADDRESS right? Without --executor ray "
            "none is needed"
        ) from error
    return ray


def last_line(error: Exception) -> str:
    """What an error says; Ray puts the cause behind the traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _score_all(
    ray: Any, todo: list[_Work], out: Path, bundle: Path, options: Mapping[str, Any],
    workers: int | None,
) -> None:  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    most = workers or int(ray.cluster_resources().get("CPU", 1))
    made = ray.data.from_items(
        [{"work": msgspec.json.encode(part)} for part in todo], override_num_blocks=len(todo)
    ).map_batches(
        Scorer, batch_size=1, batch_format="numpy", num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        fn_constructor_args=(str(out), str(bundle), dict(options)),
    )  # fmt: skip
    for name in ("ray", "ray.data"):  # it sets them up as it makes the first
        logging.getLogger(name).setLevel(logging.ERROR)
    for _ in made.iter_batches(batch_size=1, batch_format="numpy"):
        pass  # each says that its part was written


class Scorer:
    """Scores parts; each process of Ray has one."""

    def __init__(self, out: str, bundle: str, options: dict[str, Any]) -> None:
        self._out, self._recognizer = Path(out), Recognizer(bundle, **options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the part of every row, and say how many inputs it has."""
        counts = []
        for content in batch["work"]:
            work = msgspec.json.decode(bytes(content))
            rows = [self._row(name, given) for name, given in _inputs(work)]
            _write(_place(self._out, work["part"]), rows, self._recognizer.labels)
            counts.append(len(rows))
        return {"rows": counts}

    def _row(self, name: str, given: Any) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys((*self._recognizer.labels, *_MORE))
        row["id"] = name
        try:
            found = self._answer(given)
        except IfmminError as error:
            return row | {"error": " ".join(str(error).split())}
        shares = dict(zip(found.labels, found.probabilities.tolist(), strict=True))
        told = {"label": found.label, "pattern": str(found.pattern), "seconds": found.seconds}
        return row | shares | told

    def _answer(self, given: Any) -> Any:
        recognizer = self._recognizer
        if isinstance(given, dict):
            with _as_file(given["sound"]) as sound:
                return recognizer.recognize(sound=sound, text=given["text"])
        from .cli.readers import find_inputs

        (lazy,) = find_inputs([str(given)]).items()
        sample = lazy.read()
        if sample.signals is None:
            return recognizer.predictor.predict(
                sample.utterance, quality=sample.quality, frontends=sample.frontends
            )
        takes, signals = recognizer.modalities, sample.signals
        return recognizer.recognize(
            sound=signals.sound,
            text=signals.text if Modality.T in takes else None,
            face=signals.face if Modality.V in takes else None,
        )


_MORE = ("label", "pattern", "seconds", "error")


def _write(place: Path, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("label", pyarrow.string()),
         *((label, pyarrow.float32()) for label in labels), ("pattern", pyarrow.string()),
         ("seconds", pyarrow.float64()), ("error", pyarrow.string())]
    )  # fmt: skip
    with atomic_file(place) as part:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), part)


def _place(out: Path, number: int) -> Path:
    return out / f"part-{number:06d}.parquet"


def _parts(inputs: Sequence[Path]) -> Iterator[_Work]:
    """All parts, numbered, the same for the same inputs."""
    from .cli.recordings import is_sound

    paths: list[Path] = []
    number = 0
    for given in inputs:
        if given.is_dir():
            inside = sorted(given.iterdir())
            paths += [p for p in inside if is_sound(p) or p.suffix == ".npz"]
            tables = [p for p in inside if p.suffix == ".parquet"]
        elif given.suffix == ".parquet":
            tables = [given]
        elif given.is_file():
            paths.append(given)
            tables = []
        else:
            raise InputError(f"no input at {given}; give recordings, .npz, Parquet or directories")
        for table in tables:
            for group in range(_groups(table)):
                yield {"part": number, "file": str(table.absolute()), "row_group": group}
                number += 1
    for first in range(0, len(paths), PART):
        some = [[p.name, str(p.absolute())] for p in paths[first : first + PART]]
        yield {"part": number, "inputs": some}
        number += 1
    if not number:
        raise InputError(f"{', '.join(map(str, inputs))}: no recording, .npz or Parquet in it")


def _groups(table: Path) -> int:
    """Row groups of a Parquet file. InputError where it is none, or lacks columns."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BackendUnavailable(
            f"Parquet needs pyarrow ({error}); pip install 'ifmmin[ray]'"
        ) from error
    try:
        file = parquet.ParquetFile(table)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{table} is no Parquet: {last_line(error)}") from error
    names = set(file.schema_arrow.names)
    if "id" not in names or not names & _COLUMNS:
        raise InputError(
            f"{table}: got columns {', '.join(sorted(names))}, wanted id and some of "
            f"{', '.join(sorted(_COLUMNS))}"
        )
    return int(file.metadata.num_row_groups)


def _inputs(work: _Work) -> Iterator[tuple[str, Any]]:
    """Names and inputs of a part: a path, or what to recognise."""
    if "inputs" in work:
        yield from ((name, Path(path)) for name, path in work["inputs"])
        return
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(work["file"]).read_row_group(work["row_group"])
    for row in table.to_pylist():
        yield str(row["id"]), _signals(row, Path(work["file"]).parent)


def _signals(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = row.get("path")
    return {
        "sound": row.get("sound") if path is None else folder / path, "text": row.get("text"),
    }  # fmt: skip


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


def _require_same(out: Path, parts: Sequence[_Work], bundle: Path) -> None:
    """Make the directory, or see that it is of these inputs and this bundle."""
    manifest = read_regular(bundle / "manifest.json", InputError, 1 << 26)
    plan = hashlib.sha256(manifest + msgspec.json.encode(list(parts))).hexdigest()
    content = msgspec.json.encode({"plan": plan, "parts": len(parts)})
    path = out / _PLAN_NAME
    if path.is_file():
        if read_regular(path, InputError, _PLAN_BYTES) != content:
            raise InputError(
                f"{out} holds answers for other inputs or another bundle; name another"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other things; name a new directory")
    else:
        with atomic_directory(out) as folder:
            (folder / _PLAN_NAME).write_bytes(content)
