"""Steps of a GPU day: what each tries, row by row."""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import msgspec

from ifmmin.runtime.backends import BACKENDS, BackendOptions, make_backend
from ifmmin.runtime.backends.profile import PROFILED, profile_of
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.bundle import MODALITY_SHAPES, SHAPES, Bundle, GraphEntry, read_manifest
from ifmmin.runtime.bundle.verify import CheckResult, GoldenVerifier, read_golden
from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import BackendUnavailable, BundleError, IfmminError, one_line
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.stream.graphs import fit_to_profile

from ..device import Watch
from ..peers.base import PEERS
from ..record import CONTROL, REFERENCE, write_report
from ..run import run_benchmark
from ..scenarios.bench import Bench
from ..scenarios.contenders import RunConfig
from ..scenarios.plan import MONOLITH, Plan, alone_and_fullest
from ..timing import summarise

CPU = "onnxruntime-cpu"
GPU_BACKENDS = tuple(name for name in BACKENDS if name not in (CPU, "openvino"))
BATCHES = (1, 8, 64, 512, 4096)
PRECISIONS = ("fp32", "fp16", "int8-qdq")
TRAINING = (
    "corpus.train=96", "corpus.validation=32", "corpus.test=32", "stage1.epochs=1",
    "stage1.decay_epochs=0", "stage2.epochs=1", "stage2.decay_epochs=0",
)  # fmt: skip
"""Changes to the recipe of `make pipeline`: weights that answers depend on, in seconds."""
_ENERGY_SECONDS, _ENERGY_BATCH = 4.0, 512
_QUICK_ROUNDS, _QUICK_ENERGY_SECONDS = 6, 1.25
CHECKOUT = Path(__file__).resolve().parents[2]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one thing that was tried."""

    what: str
    outcome: Literal["passed", "failed", "not run"]
    figures: dict[str, float] = {}
    """By their names, which have the unit."""
    detail: str = ""
    """Of what was not run, or failed: the reason and the cure."""


@dataclass(frozen=True)
class Place:
    """Directory of a day."""

    out: Path
    quick: bool = False
    """A look, not a measurement."""

    @property
    def bundle(self) -> Path:
        """Exported here."""
        return self.out / "bundle"

    @property
    def checkpoint(self) -> Path:
        """That the bundle was made of."""
        return self.out / "run" / "model.safetensors"

    def part(self, name: str) -> Path:
        """File of a step."""
        return self.out / "parts" / f"{name.replace(' ', '-')}.json"

    def benchmark(self, name: str) -> Path:
        """File of a step's raw samples."""
        return self.out / "parts" / f"{name}.report.json"


Rows = Iterator[Row]


def make_bundle(place: Place, backends: Sequence[str]) -> Rows:
    """A short training, and every pattern, shape and precision that a GPU takes; where no GPU would
    run them, what engines can be built of ahead: one pattern, for utterances."""
    from ifmmin.export.export import Request, export_bundle
    from ifmmin.train.data import load_corpus
    from ifmmin.train.recipe import load_recipe
    from ifmmin.train.trainer import fit

    if not place.checkpoint.is_file():
        recipe, began = load_recipe("synthetic", TRAINING), time.monotonic()
        corpus = load_corpus(recipe.corpus, fold=1)
        fit(recipe, corpus, fold=1, seed=0, out=place.checkpoint.parent, overwrite=True)
        yield Row(what="training", outcome="passed", figures={"s": time.monotonic() - began})
    began = time.monotonic()
    patterns = None if backends else alone_and_fullest(ALL_PATTERNS)[:1]
    shapes = ("latency", "throughput", *(["stream"] if backends else []))
    request = Request(precisions=PRECISIONS, shapes=shapes)
    export_bundle(place.checkpoint, patterns, place.bundle, overwrite=True, request=request)
    graphs = read_manifest(place.bundle).graphs
    figures = {
        "s": time.monotonic() - began, "graphs": float(len(graphs)),
        "MB": sum(entry.bytes for entry in graphs) / 1e6,
    }  # fmt: skip
    yield Row(what="export, each graph proven on the CPU", outcome="passed", figures=figures)


def run_tests(place: Place, _: Sequence[str]) -> Rows:
    """Every test that is marked `gpu`."""
    import pytest

    files = [path for path in (CHECKOUT / "tests").rglob("test_*.py")
             if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]  # fmt: skip
    if not files:
        yield Row(what="tests", outcome="not run", detail="no tests here; run it in a checkout")
        return
    results = place.out / "parts" / "tests.xml"
    os.chdir(CHECKOUT)
    pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={results}",
                 *map(str, sorted(files))])  # fmt: skip
    for case in ET.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        figures = {"s": float(case.get("time", 0))}
        wrong = [one for one in case if one.tag in ("failure", "error", "skipped")]
        if not wrong:
            yield Row(what=name, outcome="passed", figures=figures)
            continue
        outcome: Any = "not run" if wrong[0].tag == "skipped" else "failed"
        detail = " ".join((wrong[0].get("message") or "").split())
        yield Row(what=name, outcome=outcome, figures=figures, detail=detail)


def taken_graphs(bundle: Bundle, backend: str, patterns: Sequence[Pattern]) -> list[GraphEntry]:
    """The graphs of some patterns that a backend takes first, in the order of precisions."""
    spec, found = bundle.manifest.backends[backend], []
    for precision, shape in product(PRECISIONS, SHAPES):
        for subject in Modality if shape in MODALITY_SHAPES else patterns:
            if precision in spec.precisions:
                with suppress(BundleError):  # it was not exported
                    found.append(bundle.entry(subject, precision, shape, backend))
    return found


def build_ahead(place: Place, _: Sequence[str]) -> Rows:
    """Engines of TensorRT-RTX, which need no GPU to be built: the fullest pattern's."""
    bundle, flavour = Bundle(place.bundle), "tensorrt-rtx"
    for entry in taken_graphs(bundle, flavour, alone_and_fullest(bundle.patterns)[-1:]):
        try:
            profile = profile_of(entry, bundle.manifest.modalities)
            built = build_engine(bundle.graph(entry), profile, flavour=flavour)
        except BackendUnavailable as error:
            yield Row(what=flavour, outcome="not run", detail=str(error))
            return
        except IfmminError as error:
            yield Row(what=entry.file, outcome="failed", detail=str(error))
            continue
        figures = {"s": built.parse_seconds + built.build_seconds, "MB": len(built.content) / 1e6}
        yield Row(what=entry.file, outcome="passed", figures=figures)


def prove_engines(place: Place, backends: Sequence[str]) -> Rows:
    """Every graph that a backend takes: made ready, and held against the golden vectors."""
    bundle = Bundle(place.bundle)
    vectors, check = read_golden(bundle)
    if vectors is None:
        raise BundleError(str(check))
    golden = GoldenVerifier(bundle.manifest, vectors)
    for name in backends:
        backend, unproven = make_backend(name, BackendOptions(progress=log_line)), []
        for entry in taken_graphs(bundle, name, bundle.patterns):
            began = time.monotonic()
            try:
                loaded = backend.open(bundle, entry)
            except BackendUnavailable as error:
                yield Row(what=entry.file, outcome="not run", detail=str(error))
                continue
            # An engine may raise anything of a graph that it does not like.
            except Exception as error:
                yield Row(what=entry.file, outcome="failed", detail=one_line(error))
                continue
            seconds = time.monotonic() - began
            if name in PROFILED and entry.shape != "latency":
                loaded = fit_to_profile(loaded, profile_of(entry, bundle.manifest.modalities))
            found = golden.check(entry, loaded.run)
            if found is None:
                unproven.append((entry, seconds))
            else:
                yield _proven(found, seconds, loaded.notes)
        for entry, seconds in unproven:
            yield _proven(golden.check_by_heads(entry), seconds)


def _proven(check: CheckResult, seconds: float, notes: Sequence[str] = ()) -> Row:
    figures = {"ready s": seconds}
    if check.difference is not None and check.allowed is not None:
        figures |= {"difference": check.difference, "allowed": check.allowed}
    detail = "; ".join([check.detail] if not check.passed else notes)
    outcome: Any = "passed" if check.passed else "failed"
    return Row(what=check.file, outcome=outcome, figures=figures, detail=detail)


def explain_choice(place: Place, _: Sequence[str]) -> Rows:
    """What `auto` takes for every pattern, and what came of everything else."""
    outcomes = {"refused": "failed", "unavailable": "not run"}
    for trial in Predictor(place.bundle, backend="auto", precision="auto").explain():
        if trial.outcome != "absent":
            yield Row(
                what=f"{trial.pattern} by {trial.candidate}",
                outcome=outcomes.get(trial.outcome, "passed"),  # type: ignore[arg-type]
                figures={} if trial.seconds is None else {"p50 us": trial.seconds * 1e6},
                detail=trial.detail if trial.outcome in outcomes else trial.outcome,
            )


def measure(
    place: Place, backends: Sequence[str], *, name: str, budget: float, **plan: Any
) -> Rows:
    """Scenarios of `ifmmin-bench` by the GPU's backends beside the processor, whose raw samples
    become a part of the record."""
    patterns = Bundle(place.bundle).patterns
    report = run_benchmark(
        Plan(
            bundle=place.bundle,
            checkpoint=place.checkpoint,
            patterns=tuple(alone_and_fullest(patterns)) if name != "latency" else (),
            backends=(*backends, CPU),
            peers=(MONOLITH, *(peer.name for peer in PEERS if peer.backend in backends)),
            budget=1.0 if place.quick else budget,
            rounds=_QUICK_ROUNDS if place.quick else Plan.rounds,
            **plan,
        ),
        "make gpu",
        log_line,
    )
    write_report(report, place.benchmark(name))
    for row in report.rows:
        if row.contender in (CONTROL, REFERENCE) or row.contender.startswith(f"{CPU} fp16"):
            continue  # the processor takes none
        if not row.samples:
            yield Row(what=row.subject, outcome="not run", detail=row.note)
            continue
        found = summarise(row.samples)
        figures = {"1/s": found.p50}
        if row.unit == "s":
            figures = {"p50 us": found.p50 * 1e6, "p99 us": found.p99 * 1e6}
        yield Row(what=row.subject, outcome="passed", figures=figures, detail=row.note)


def measure_energy(place: Place, backends: Sequence[str]) -> Rows:
    """Joules of an answer of the fullest pattern: one after the other, and in batches."""
    bench = Bench(Plan(bundle=place.bundle), log_line)
    pattern = alone_and_fullest(bench.patterns)[-1]
    one = bench.ordinary(pattern)
    many = [bench.ordinary(pattern, shift) for shift in range(_ENERGY_BATCH)]
    spans: list[tuple[str, float, float, int]] = []
    length = _QUICK_ENERGY_SECONDS if place.quick else _ENERGY_SECONDS
    with Watch() as watch:
        for backend in (*backends, CPU):
            predictor = bench.predictor(RunConfig(backend, "fp32", 1))
            if predictor is None:
                continue
            batch = partial(predictor.predict_batch, many, batch_size=_ENERGY_BATCH)
            calls: list[tuple[int, Callable[[], Any]]] = [
                (1, partial(predictor.predict, one)), (_ENERGY_BATCH, batch)
            ]  # fmt: skip
            for size, call in calls:
                call()
                began, answers = time.monotonic(), 0
                while time.monotonic() < began + length:
                    call()
                    answers += size
                spans.append((f"{backend}, batch {size}", began, time.monotonic(), answers))
    for (_, what, _), reason in bench.refused.items():
        yield Row(what=what, outcome="not run", detail=reason)
    for what, began, ended, answers in spans:
        energy, figures = watch.between(began, ended).energy, {"1/s": answers / (ended - began)}
        counted = [joules for rail, joules in energy.rails.items() if rail.startswith("gpu")]
        if counted:
            figures["J of the GPU"] = sum(counted) / answers
        if energy.joules is not None:
            figures["J"] = energy.joules / answers
        told = energy.covers or energy.reason
        outcome: Any = "passed" if len(figures) > 1 else "not run"
        yield Row(what=what, outcome=outcome, figures=figures, detail=told)


@dataclass(frozen=True)
class Step:
    """A part of a day."""

    name: str
    make: Callable[[Place, Sequence[str]], Rows]
    seconds: float
    """It is ended after so many; its rows until then are kept."""
    backends: Sequence[str] = ()
    """Of which at least one must run here; empty: it is for the processor too."""


STEPS = (
    Step("bundle", make_bundle, 480),
    Step("tests", run_tests, 300),
    Step("engines built ahead", build_ahead, 60),
    *(Step(f"engines {name}", prove_engines, 300, (name,)) for name in GPU_BACKENDS),
    Step("auto", explain_choice, 240),
    Step("latency", partial(
        measure, name="latency", scenarios=("latency",), precisions=("fp32", "fp16"), budget=150.0,
    ), 360, GPU_BACKENDS),
    Step("batches", partial(
        measure, name="batches", scenarios=("throughput",), batches=BATCHES, budget=90.0,
    ), 240, GPU_BACKENDS),
    Step("streams", partial(
        measure, name="streams", scenarios=("stream", "streams"), budget=60.0,
    ), 150, GPU_BACKENDS),
    Step("energy", measure_energy, 120, GPU_BACKENDS),
)  # fmt: skip
