"""Extraction: a table of recordings, words and labels becomes a corpus in the released layout.

What a front-end made of a file is kept, by its content and the front-end's identity: a run that was
killed goes on, and one with more rows makes what is new.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle, shipped
from ifmmin.runtime.console import log_line, progress
from ifmmin.runtime.errors import CorpusError, IfmminError, InputError, OutputError, one_line
from ifmmin.runtime.files import atomic_directory, atomic_file, open_regular, require_writable
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.spec import FrontEndSpec, read_folder, reader_of
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.validate import as_numbers

from .data.recordings import SOURCES, Recording, labels_of, read_table, split
from .data.released import FILE_PREFIX, FeatureFile, ReleasedLayout
from .recipe import FEATURES_NAME, RECIPE_NAME, TARGETS_NAME, Recipe, dump_recipe, load_recipe

_FOLDER = {Modality.A: "A", Modality.V: "V", Modality.T: "L"}
CACHE_NAME = "cache"


@dataclass(frozen=True)
class Source:
    """Where the front-end of a column comes from."""

    column: str
    place: str
    """A folder, a bundle's directory, `package.module:function`, or empty for what needs none."""

    @property
    def modality(self) -> Modality:
        """Of the features."""
        return SOURCES[self.column]

    def find(self) -> tuple[FrontEndSpec, Callable[[], FrontEnd]]:
        """Its specification and what opens it, on one thread. Raises InputError or BundleError."""
        if not self.place and self.column == "openface":
            from ifmmin.runtime.frontends import openface

            spec, read = openface.specify(), reader_of(Path())
        elif not self.place:
            raise InputError(
                f"column {self.column}: the bundle that ships has no front-end of {self.modality}; "
                f"give one: --frontend {self.modality}=DIR"
            )
        elif not Path(self.place).is_dir() and ":" in self.place:
            own, described = _own(self.modality, self.place)
            return described, lambda: own
        elif (Path(self.place) / MANIFEST_NAME).is_file():
            named = Bundle(self.place).manifest.modalities[self.modality].frontend
            if named is None:
                raise InputError(f"{self.place} has no front-end of {self.modality}; give another")
            spec, read = named, reader_of(Path(self.place))
        else:
            spec, read = read_folder(self.place)
        return spec, partial(open_frontend, spec, read)


def _own(modality: Modality, reference: str) -> tuple[FrontEnd, FrontEndSpec]:
    module, _, name = reference.partition(":")
    try:
        made: FrontEnd = getattr(importlib.import_module(module), name)()
        described = made.describe()
    except Exception as error:  # whatever a module of the user's own raises
        raise InputError(
            f"--frontend {modality}={reference}: {type(error).__name__}: {one_line(error)}; wanted "
            "a folder of a front-end, or package.module:function on PYTHONPATH that gives one"
        ) from error
    return made, described


def choose_sources(columns: Sequence[str], given: Mapping[Modality, str]) -> list[Source]:
    """The front-end of each column that is used: the one given, else that of the bundle that ships,
    else OpenFace's, which has no files. InputError where two columns would share a modality."""
    used = [SOURCES[column] for column in columns]
    if len(set(used)) < len(used):
        raise InputError("openface and video are both filled; make two corpora of them")
    for modality in given:
        if modality not in used:
            raise InputError(f"--frontend {modality}: no row has a signal of {modality}")
    ships = set()
    if (shipped() / MANIFEST_NAME).is_file():
        specs = Bundle(shipped()).manifest.modalities
        ships = {m for m, spec in specs.items() if spec.frontend is not None}
    places = {m: str(shipped()) for m in ships} | dict(given)
    return [Source(column, places.get(SOURCES[column], "")) for column in columns]


@dataclass(frozen=True)
class Job:
    """One signal for one front-end."""

    column: str
    signal: str
    """A path, or words."""
    copy: int = 0
    """Number of a noisy copy; 0: as it is."""


@dataclass(frozen=True)
class Done:
    """What became of a job."""

    job: Job
    file: Path | None = None
    """Where the features lie (.npy); none where nothing is in the signal."""
    reason: str = ""
    """Why it failed, in one line."""


class _Worker:
    """Makes features in a process of its own; front-ends are opened when the first wants them."""

    def __init__(self, sources: Sequence[Source], cache: Path) -> None:
        self._found = {source.column: source.find() for source in sources}
        self._cache = cache
        self._opened: dict[str, FrontEnd] = {}

    def run(self, job: Job) -> Done:
        """Raises what opening a front-end raises; what is wrong with a signal is told."""
        spec, open_one = self._found[job.column]
        if job.column not in self._opened:
            self._opened[job.column] = open_one()
        try:
            return self._run(job, self._opened[job.column], spec)
        except IfmminError as error:
            return Done(job, reason=" ".join(str(error).split()))
        except Exception as error:  # whatever a front-end of the user's own raises
            return Done(job, reason=f"{type(error).__name__}: {one_line(error)}")

    def _run(self, job: Job, frontend: FrontEnd, spec: FrontEndSpec) -> Done:
        digest = _digest(job)
        copied = f"-noisy{NOISE_VERSION}-{job.copy}" if job.copy else ""
        file = self._cache / spec.identity / f"{digest}{copied}.npy"
        if file.is_file():
            return Done(job, file if len(_load(file)) else None)
        given: Any = job.signal
        if job.copy:
            given = noisy(given, np.random.default_rng([int(digest[:16], 16), job.copy]))
        features = as_numbers(frontend.whole(given), "features", InputError)
        if features.ndim != 2 or features.shape[1] != spec.dim or not np.isfinite(features).all():
            raise InputError(
                f"front-end {spec.identity} gave {features.shape}, wanted (frames, {spec.dim}), "
                "all finite"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as part, part.open("wb") as stored:
            np.save(stored, features.astype(np.float32))
        return Done(job, file if len(features) else None)


def _digest(job: Job) -> str:
    """Of what is in the signal."""
    if job.column == "text":
        return hashlib.sha256(job.signal.encode()).hexdigest()
    try:
        with open_regular(Path(job.signal), InputError, sys.maxsize) as file:
            found = hashlib.sha256()
            while piece := file.read(1 << 20):
                found.update(piece)
            return found.hexdigest()
    except OSError as error:
        raise InputError(f"{job.signal} cannot be read: {error.strerror}") from error


def _load(file: Path) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.load(file, allow_pickle=False)
    return array


NOISE_VERSION = 1
"""Of `noisy`: raised where the same draws give other sound."""
_LOUDEST, _QUIETEST = 3.0, 25.0
_GAIN = 10.0
_BLOCK = 512


def noisy(path: str, draws: np.random.Generator) -> Any:
    """The sound of a file as one channel of 16 kHz with pink or white noise 3 to 25 dB under its
    louder half, and up to 10 dB louder or quieter: what a microphone may make of it."""
    from ifmmin.runtime.frontends.sound import RATE, Sound, mono, read_sound

    x = mono(read_sound(path)).astype(np.float64)
    spectrum = np.fft.rfft(draws.standard_normal(max(len(x), 2)))
    if draws.random() < 0.5:
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, n=max(len(x), 2))[: len(x)]
    blocks = [float(np.mean(x[i : i + _BLOCK] ** 2)) for i in range(0, len(x), _BLOCK)]
    active = np.mean([power for power in blocks if power >= np.mean(blocks)]) if blocks else 0.0
    wanted = active * 10 ** (-draws.uniform(_LOUDEST, _QUIETEST) / 10)
    noise *= np.sqrt(wanted / max(float(np.mean(noise**2)), 1e-30)) if len(x) else 1.0
    gain = 10 ** (draws.uniform(-_GAIN, _GAIN) / 20)
    return Sound(np.clip(gain * (x + noise), -1.0, 1.0).astype(np.float32), RATE)


_worker: _Worker | None = None
"""That of this process."""


def _start(sources: Sequence[Source], cache: Path) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends all
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = _Worker(sources, cache)


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: Job) -> Done:
    assert _worker is not None
    return _worker.run(job)


def _make(
    wanted: Iterable[Job], sources: Sequence[Source], cache: Path, processes: int
) -> dict[Job, Done]:
    """Every job, each once, however many ask for it."""
    jobs = list(dict.fromkeys(wanted))
    # Begun anew, each would import torch, of which none needs anything.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("fork"), initializer=_start, initargs=(sources, cache)
    )
    made: dict[Job, Done] = {}
    try:
        futures = [pool.submit(_run, job) for job in jobs]
        with progress("extract", len(jobs)) as advance:
            for future in as_completed(futures):
                done = future.result()
                made[done.job] = done
                advance("")
    except BrokenProcessPool as error:
        raise IfmminError(
            "a process was killed, likely for want of memory; call again with fewer --jobs: what "
            "is made is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return made


@dataclass(frozen=True)
class Extracted:
    """What was written."""

    utterances: int
    """Rows of which something could be made."""
    copies: int
    """Noisy ones."""
    folds: int
    labels: tuple[str, ...]
    specs: dict[Modality, FrontEndSpec]
    broken: list[str]
    """A line for every signal that failed."""
    silent: int
    """Signals in which nothing was."""


def extract(
    table: Path,
    out: Path,
    *,
    frontends: Mapping[Modality, str],
    labels: Sequence[str] | None = None,
    folds: int | None = None,
    copies: int = 0,
    processes: int = 1,
) -> Extracted:
    """Write the corpus of a table to the directory `out`: features, targets and a recipe.

    frontends: a folder or `package.module:function` for modalities that shall not have the front-
    end of the bundle that ships; copies: noisy ones of each sound, for training alone. Raises
    CorpusError, InputError, BundleError, BackendUnavailable or OutputError; what was made until
    then is kept for the next call.
    """
    recordings = read_table(table)
    classes = labels_of(recordings, labels)
    split(recordings, folds)  # before long work, not after it
    used = [c for c in SOURCES if any(c in one.signals for one in recordings)]
    sources = choose_sources(used, frontends)
    specs = {source.modality: source.find()[0] for source in sources}
    _require_ours(out)
    wanted = {
        (one.name, copy): _jobs(one, table.parent, copy)
        for one in recordings
        for copy in range(1 + (copies if "sound" in one.signals else 0))
    }
    every = [job for jobs in wanted.values() for job in jobs]
    made = _make(every, sources, out / CACHE_NAME, processes)
    features = {
        key: {SOURCES[j.column]: file for j in jobs if (file := made[j].file) is not None}
        for key, jobs in wanted.items()
    }
    broken = [
        f"{name}, {job.column}: {made[job].reason}"
        for (name, copy), jobs in wanted.items()
        for job in jobs
        if made[job].reason and not copy
    ]
    kept = [one for one in recordings if features[one.name, 0]]
    if not kept:
        why = broken[0] if broken else "nobody speaks, and there are no words"
        raise CorpusError(f"{table}: nothing could be made of any of its rows; the first: {why}")
    # A copy in whose noise nobody is heard would be the words again.
    copied = {
        one.name: [c for c in range(1, copies + 1) if Modality.A in features.get((one.name, c), {})]
        for one in kept
    }
    sets = split(kept, folds)
    (out / RECIPE_NAME).unlink(missing_ok=True)
    every_name = {
        _id(one.name, copy): features[one.name, copy]
        for one in kept
        for copy in (0, *copied[one.name])
    }
    with atomic_directory(out / FEATURES_NAME) as folder:
        for modality, spec in specs.items():
            _write_features(folder / _file_name(modality, spec), modality, every_name)
    with atomic_directory(out / TARGETS_NAME) as folder:
        for number, parts in enumerate(sets, start=1):
            _write_targets(folder / str(number), parts, copied, classes)
            _warn_of_gaps(number, parts, classes)
    with atomic_file(out / RECIPE_NAME) as part:
        recipe = _recipe(out.absolute().name, classes, specs, len(sets))
        part.write_text(dump_recipe(recipe), encoding="utf-8")
    return Extracted(
        utterances=len(kept),
        copies=sum(map(len, copied.values())),
        folds=len(sets),
        labels=classes,
        specs=specs,
        broken=broken,
        silent=sum(not done.reason and done.file is None for done in made.values()),
    )


def _id(name: str, copy: int) -> str:
    """An utterance's name in the corpus."""
    return f"{name}~{copy}" if copy else name


def _jobs(one: Recording, root: Path, copy: int) -> list[Job]:
    """What a row wants; of a copy, the words are those of the row."""
    return [
        Job(column, text) if column == "text"
        else Job(column, str(root / text), copy if column == "sound" else 0)
        for column, text in one.signals.items()
    ]  # fmt: skip


def _require_ours(out: Path) -> None:
    """OutputError unless `out` is free, or a corpus of this command."""
    require_writable(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write {out}: a file is in the way; choose another --out")
    ours = {CACHE_NAME, FEATURES_NAME, TARGETS_NAME, RECIPE_NAME}
    if out.is_dir() and any(
        path.name not in ours and not path.name.startswith(".") for path in out.iterdir()
    ):
        raise OutputError(f"{out} is in use by something else; choose another --out")
    out.mkdir(exist_ok=True)


def _file_name(modality: Modality, spec: FrontEndSpec) -> str:
    return f"{_FOLDER[modality]}/{spec.kind}.h5"


def _write_features(
    path: Path, modality: Modality, features: Mapping[str, Mapping[Modality, Path]]
) -> None:
    """One dataset an utterance; what several share, such as words, is in the file once."""
    path.parent.mkdir(exist_ok=True)
    first: dict[Path, str] = {}
    with h5py.File(path, "w") as file:
        for name, found in features.items():
            if modality not in found:
                continue
            source = found[modality]
            file[name] = file[first[source]] if source in first else _load(source)
            first.setdefault(source, name)


def _write_targets(
    folder: Path,
    parts: Mapping[str, Sequence[Recording]],
    copied: Mapping[str, Sequence[int]],
    classes: Sequence[str],
) -> None:
    folder.mkdir()
    for part, prefix in FILE_PREFIX.items():
        rows = [
            (_id(one.name, copy), classes.index(one.label))
            for one in parts[part]
            for copy in (0, *(copied[one.name] if part == "train" else ()))
        ]
        np.save(folder / f"{prefix}_int2name.npy", np.array([name for name, _ in rows]))
        np.save(folder / f"{prefix}_label.npy", np.array([label for _, label in rows]))


def _warn_of_gaps(
    number: int, parts: Mapping[str, Sequence[Recording]], classes: Sequence[str]
) -> None:
    for part, some in parts.items():
        lacking = [name for name in classes if name not in {one.label for one in some}]
        if lacking:
            log_line(f"warning: fold {number}: no {part} utterance is {', '.join(lacking)}")


def _recipe(
    name: str, classes: tuple[str, ...], specs: Mapping[Modality, FrontEndSpec], folds: int
) -> Recipe:
    """The recipe robust on this corpus."""
    files = {
        modality: FeatureFile(
            file=_file_name(modality, spec),
            standardise="train",
            features=spec.features,
            frame_rate=spec.frame_rate,
            missing_length=5 if modality is Modality.T else 100,
            frontend=spec,
        )
        for modality, spec in specs.items()
    }
    return msgspec.structs.replace(
        load_recipe("robust"),
        name=name,
        description=f"IF-MMIN as in recipe robust, on {name}, written by ifmmin-train extract.",
        corpus=ReleasedLayout(name=name, labels=classes, folds=folds, files=files),
    )
