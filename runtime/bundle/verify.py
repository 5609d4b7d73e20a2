"""Verification of a bundle on this device, without torch and without its checkpoint.

Files, interfaces of graphs and golden vectors, with the tolerance of each precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backends import LoadedGraph, Runner
from ..backends.onnxruntime import OnnxRuntimeCpu
from ..errors import BackendUnavailable, BundleError, IfmminError, one_line
from ..frontends.base import open_frontend
from ..frontends.spec import FrontEndSpec, reader_of
from ..modality import Modality, Pattern
from ..prediction import allowed_differences, largest_differences, softmax
from ..process import Lazy
from ..stream.graphs import ModalityStream, StreamGraphs
from ..validate import pad_batch
from .bundle import Bundle, Features, GoldenSignal
from .graph_file import check_graph_file, read_graph_file
from .manifest import MANIFEST_NAME, MODALITY_SHAPES, SHAPES, EngineEntry, GraphEntry, Manifest

TOLERANCE = 1e-4
"""Of a logit: what a float32 graph is allowed at export."""
ROUNDING = {"fp32": 5e-6, "fp16": 1e-2}
"""The same as a share of an answer's largest logit, where that is more; some 20 to 80 times what
one number of the type is rounded by."""
FLOAT32_LOSS, FLOAT32_LOSSES = "float32_loss", 4.0
"""What the network in float32 lost against float64 at export, by its name in `parity`; and how many
times that a graph may lose in a logit: it adds up in another order, and so does each processor."""
PROBABILITY = 2e-2
"""Of a probability, for graphs in 8 bits."""
MARGINS = {"latency": 2.0, "throughput": 2.0, "head": 4.0}
"""Times the largest difference measured at export. Another processor sums in another order and
rounds integers elsewhere; a graph that is not the one exported is off by far more. A head was
measured on few utterances, cut into chunks, and not on the golden ones."""
EIGHT_BITS = ("int8", "int8-qdq")


def check_outputs(
    entry: GraphEntry, what: str, found: NDArray[np.floating], truth: NDArray[np.floating]
) -> CheckResult:
    """Logits (N, C) of a graph against the network's.

    Graphs in 8 bits are compared by probabilities: their logits may be far off where the answer is
    sure. What is not finite, or has another shape, is wrong.
    """
    if found.shape != truth.shape:
        return CheckResult(entry.file, what, False, f"logits {found.shape}, wanted {truth.shape}")
    if entry.precision in EIGHT_BITS:
        unit, found, truth = "probability", softmax(found), softmax(truth)
        limits = allowed_differences(truth, max(PROBABILITY, _measured(entry, "probability_max")))
    else:
        unit, own = "logit", _measured(entry, "max_difference")
        own = max(TOLERANCE, own, FLOAT32_LOSSES * recorded(entry, FLOAT32_LOSS))
        limits = allowed_differences(truth, own, ROUNDING[entry.precision])
    differences = largest_differences(found, truth)
    worst = int((differences / limits).argmax())
    difference, allowed = float(differences[worst]), float(limits[worst])
    detail = (
        f"largest difference of a {unit} {difference:.1e} at golden input {worst}, "
        f"allowed {allowed:.1e}"
    )
    return CheckResult(
        entry.file, what, difference <= allowed, detail, difference, unit=unit, allowed=allowed
    )


def _measured(entry: GraphEntry, figure: str) -> float:
    """A figure of the comparison at export with the margin; 0 where it is not recorded."""
    return MARGINS[entry.shape] * recorded(entry, figure)


def recorded(entry: GraphEntry, figure: str, otherwise: float = 0.0) -> float:
    """A figure of the comparison at export; JSON has null for what was not finite."""
    value = entry.parity.get(figure)
    return float(value) if isinstance(value, int | float) else otherwise


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at in a bundle."""

    file: str
    """File of the bundle."""
    what: str
    """What was looked at, e.g. `golden vectors`."""
    passed: bool
    detail: str
    """One line: what was got, and what was wanted where it is something else."""
    difference: float | None = None
    """Largest difference from the right answers, where answers were compared."""
    unit: str = ""
    """What differs: `logit` or `probability`."""
    allowed: float | None = None
    """What the difference may be."""
    note: bool = False
    """It passes, and yet somebody should hear of it."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: {self.detail}"


CARD_NAME = "README.md"
CHECKPOINT_NAME = "model.safetensors"
"""What a bundle may come with, for export."""


def check_manifest(bundle: Bundle) -> list[CheckResult]:
    """Whether the manifest makes sense alone, and whether the directory holds more than it says."""
    graphs, engines = bundle.manifest.graphs, bundle.manifest.engines
    keys = [" ".join(entry.key) for entry in graphs]
    files = [*(entry.file for entry in graphs), *(entry.file for entry in engines)]
    twice = [name for name, count in Counter([*keys, *files]).items() if count > 1]
    detail = f"named twice: {', '.join(twice)}" if twice else f"{len(graphs)} graphs"
    return [
        CheckResult(MANIFEST_NAME, "names everything once", not twice, detail),
        *_unknown_files(bundle),
        *(_check_source(bundle, engine) for engine in engines),
    ]


def check_frontends(bundle: Bundle) -> Iterator[CheckResult]:
    """Whether every front-end opens here, and makes of the golden signals what it made at export.

    One that its package is missing for is passed over, with a note.
    """
    specs = {m: s.frontend for m, s in bundle.manifest.modalities.items() if s.frontend is not None}
    if not specs:
        return
    try:
        cases = bundle.golden_signals()
    except BundleError:
        return  # what is wrong with the golden file is told elsewhere
    for modality, spec in specs.items():
        what = f"front-end of {modality}"
        name = next((entry.file for entry in spec.files.values()), MANIFEST_NAME)
        try:
            frontend = open_frontend(spec, reader_of(bundle.directory))
            for case in cases:
                if case.modality is modality:
                    yield _check_features(name, what, spec, frontend.whole(case.signal), case)
        except BackendUnavailable as error:
            yield CheckResult(name, what, True, f"not tried: {error}", note=True)
        except IfmminError as error:
            yield CheckResult(name, what, False, one_line(error))


def _check_features(
    name: str, what: str, spec: FrontEndSpec, found: NDArray[np.float32], case: GoldenSignal
) -> CheckResult:
    wanted = case.features
    if found.shape != wanted.shape:
        detail = f"got features {found.shape} of a golden signal, wanted {wanted.shape}"
        return CheckResult(name, what, False, detail)
    norm = float(np.linalg.norm(wanted)) or 1.0
    difference = float(np.linalg.norm(found - wanted)) / norm
    detail = f"features differ by {difference:.1e} of their norm, allowed {spec.tolerance:.0e}"
    return CheckResult(name, what, difference <= spec.tolerance, detail)


def read_graph(bundle: Bundle, entry: GraphEntry | EngineEntry) -> tuple[bytes | None, CheckResult]:
    """The content of a graph or engine, None where it is not what the manifest says."""
    try:
        content = bundle.read(entry)
    except BundleError as error:
        return None, CheckResult(entry.file, "file", False, str(error))
    return content, CheckResult(entry.file, "file", True, f"sha256 {entry.sha256[:12]}...")


def _check_source(bundle: Bundle, engine: EngineEntry) -> CheckResult:
    """An engine must be of a graph as it is now."""
    current = {entry.file: entry.sha256 for entry in bundle.manifest.graphs}
    found = current.get(engine.graph, "no such graph")
    if found == engine.graph_sha256:
        return CheckResult(engine.file, "built from", True, engine.graph)
    detail = (
        f"of {engine.graph} with sha256 {engine.graph_sha256[:12]}..., "
        f"the bundle has {found[:12]}...; build it again"
    )
    return CheckResult(engine.file, "built from", False, detail)


def _unknown_files(bundle: Bundle) -> Iterator[CheckResult]:
    """Files that nothing reads do no harm, but whoever copies bundles should know of them.

    Hidden ones are left alone: version control and file managers put them everywhere.
    """
    manifest = bundle.manifest
    known = {MANIFEST_NAME, CARD_NAME, manifest.golden.file}
    known.update(entry.file for entry in manifest.graphs)
    known.update(entry.file for entry in manifest.engines)
    known.update(
        entry.file
        for spec in manifest.modalities.values()
        if spec.frontend is not None
        for entry in spec.frontend.files.values()
    )
    known.add(CHECKPOINT_NAME)
    for path in sorted(bundle.directory.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            yield CheckResult(
                path.name, "known", True, "not named by the manifest; unused", note=True
            )


WHAT = "golden vectors"
_GARBAGE = 3e3
"""What lies past the ends in a batch: it must not matter."""
_CHUNKS = (1, 1, 2, 5, 1, 13, 3)
"""Frames that a stream gets at a time, in turn, after the first chunk."""

Values = list[NDArray[np.float32]]
"""Per golden input what a step pooled (1, P) or what a summary made of it (1, S)."""


@dataclass(frozen=True)
class GoldenVectors:
    """Inputs of all modalities, and the network's answers under every pattern."""

    inputs: list[Features]
    logits: dict[str, NDArray[np.float32]]
    """Per pattern (N, C)."""

    def of(self, pattern: Pattern) -> list[Features]:
        """The inputs of a pattern."""
        return [{m: features[m] for m in pattern} for features in self.inputs]


def read_golden(bundle: Bundle) -> tuple[GoldenVectors | None, CheckResult]:
    """The golden vectors, None where the file is not what the manifest says."""
    file = bundle.manifest.golden.file
    try:
        inputs, tensors = bundle.golden_inputs(), bundle.golden_tensors()
        subjects = sorted({key.split("/")[1] for key in tensors if key.startswith("logits/")})
        every = range(len(inputs))
        logits = {s: np.stack([tensors[f"logits/{s}/{i}"] for i in every]) for s in subjects}
    except (IfmminError, LookupError) as error:
        return None, CheckResult(file, "file", False, one_line(error))
    return GoldenVectors(inputs, logits), CheckResult(file, "file", True, f"{len(inputs)} inputs")


class GoldenVerifier:
    """Runs the graphs of a bundle on golden vectors, one after the other.

    Steps have to come before summaries, and both before the heads that build on them.
    """

    def __init__(self, manifest: Manifest, vectors: GoldenVectors) -> None:
        self._manifest = manifest
        self._vectors = vectors
        self._values: dict[tuple[str, Modality, str], Values] = {}
        self._heads: list[tuple[GraphEntry, bool]] = []

    def check(self, entry: GraphEntry, run: Runner, *, whole: bool = False) -> CheckResult | None:
        """The verdict; None for steps and summaries that ran, which their heads prove.

        whole: whatever the graph is, `run` takes an utterance, as a latency graph does.
        """
        try:
            verdict = self._check(entry, run, "latency" if whole else entry.shape)
        # An engine may raise anything of a graph that is not what it should be.
        except Exception as error:
            verdict = CheckResult(entry.file, WHAT, False, f"it does not run: {one_line(error)}")
        if entry.shape == "head":
            self._heads.append((entry, verdict is not None and verdict.passed))
        return verdict

    def check_by_heads(self, entry: GraphEntry) -> CheckResult:
        """The verdict on a step or summary once all heads have run: one right answer proves it."""
        heads = [
            (head.file, passed)
            for head, passed in self._heads
            if head.precision == entry.precision and entry.subject in (head.pattern or ())
        ]
        right = next((file for file, passed in heads if passed), None)
        if right is not None:
            return CheckResult(entry.file, WHAT, True, f"{right} answers rightly from it")
        if not heads:
            return CheckResult(entry.file, WHAT, True, "not proven: no head takes it", note=True)
        names = ", ".join(file for file, _ in heads)
        return CheckResult(
            entry.file, WHAT, False, f"none of the heads answers rightly from it: {names}"
        )

    def _check(self, entry: GraphEntry, run: Runner, form: str) -> CheckResult | None:
        if entry.modality is not None:
            make = self._pooled if entry.shape == "step" else self._summarised
            values = make(entry, entry.modality, run)
            self._values[entry.shape, entry.modality, entry.precision] = values
            return None
        assert entry.pattern is not None
        truth = self._vectors.logits.get(entry.subject)
        if truth is None:
            return CheckResult(
                entry.file, WHAT, False, f"the golden file has none of {entry.subject}"
            )
        drives: dict[str, Callable[[GraphEntry, Pattern, Runner], NDArray[np.float32]]] = {
            "latency": self._alone,
            "throughput": self._batch,
            "head": self._stream,
        }
        return check_outputs(entry, WHAT, drives[form](entry, entry.pattern, run), truth)

    def _alone(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        rows = [run({m.value: x for m, x in f.items()})[0] for f in self._vectors.of(pattern)]
        return np.stack(rows)

    def _batch(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = run(pad_batch(self._vectors.of(pattern), _GARBAGE))[0]
        return logits

    def _stream(self, entry: GraphEntry, pattern: Pattern, run: Runner) -> NDArray[np.float32]:
        summaries = {m: self._of("summary", m, entry) for m in pattern}
        rows = [
            run({m.value: made[number] for m, made in summaries.items()})[0]
            for number in range(len(self._vectors.inputs))
        ]
        return np.concatenate(rows)

    def _pooled(self, entry: GraphEntry, modality: Modality, run: Runner) -> Values:
        shortest = self._manifest.modalities[modality].minimum_length
        found = []
        for features in self._vectors.inputs:
            stream, frames = ModalityStream(entry, run), features[modality]
            chunks = np.split(frames, _cuts(len(frames), shortest))
            found.append([stream.push(chunk[None]) for chunk in chunks][-1])
        return found

    def _summarised(self, entry: GraphEntry, modality: Modality, run: Runner) -> Values:
        return [run({"pooled": pooled})[0] for pooled in self._of("step", modality, entry)]

    def _of(self, shape: str, modality: Modality, entry: GraphEntry) -> Values:
        try:
            return self._values[shape, modality, entry.precision]
        except KeyError:
            raise BundleError(
                f"no {entry.precision} {shape} graph of {modality} ran before it"
            ) from None


def _cuts(length: int, shortest: int) -> list[int]:
    """Where a stream is cut: the first chunk has the minimum, the others take turns."""
    cuts, turn = [shortest], 0
    while cuts[-1] < length:
        cuts.append(cuts[-1] + _CHUNKS[turn % len(_CHUNKS)])
        turn += 1
    return [cut for cut in cuts if cut < length]


class Proof:
    """The golden vectors of a bundle, read when they are first wanted."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @Lazy
    def vectors(self) -> GoldenVectors:
        """Inputs and answers; BundleError where the file is damaged."""
        vectors, check = read_golden(self._bundle)
        if vectors is None:
            raise BundleError(f"{check}")
        return vectors

    def fault(self, loaded: LoadedGraph) -> str:
        """Why a graph of utterances answers wrongly; empty where it answers rightly."""
        return _fault(self._run(), loaded)

    def fault_of_stream(self, graphs: StreamGraphs, pattern: Pattern) -> str:
        """The same of the graphs of streams: as the vectors come in chunks, and each at once.

        States that are wrong show only after some calls. Other streams of the same parts go on.
        """
        golden = self._run()
        with graphs.lock:
            encoders = [graphs.encoder(modality) for modality in pattern]
            head, whole = graphs.head(pattern), graphs.whole(pattern)
        steps, summaries = [one.step for one in encoders], [one.summary for one in encoders]
        for graph in (*steps, *summaries, head):
            fault = _fault(golden, graphs.in_turn(graph))
            if fault:
                return f"{graph.entry.file} in chunks: {fault}"
        return _fault(golden, graphs.in_turn(whole), whole=True)

    def _run(self) -> GoldenVerifier:
        return GoldenVerifier(self._bundle.manifest, self.vectors)


def _fault(golden: GoldenVerifier, loaded: LoadedGraph, *, whole: bool = False) -> str:
    check = golden.check(loaded.entry, loaded.run, whole=whole)
    return "" if check is None or check.passed else check.detail


def check_bundle(
    bundle: Bundle,
    *,
    backend: OnnxRuntimeCpu | None = None,
    advance: Callable[[str], None] | None = None,
) -> list[CheckResult]:
    """Look at everything in a bundle; the result says what was found, right or wrong.

    Files and hashes; that front-ends make the golden features; that every graph loads, is the one
    that the manifest describes, and answers the golden vectors: one by one, in a padded batch, in
    chunks. backend: what runs the graphs. advance: called once per graph of the manifest. One graph
    is in memory at a time. Raises BackendUnavailable.
    """
    advance = advance or _silent
    test = _Selftest(bundle, backend or OnnxRuntimeCpu())
    test.checks += check_frontends(bundle)
    # Heads build on summaries, those on steps: the order of SHAPES.
    for entry in sorted(bundle.manifest.graphs, key=lambda entry: SHAPES.index(entry.shape)):
        test.checks += test.of_graph(entry)
        advance(entry.file)
    return [*test.checks, *test.of_modalities()]


def load_as_exported(
    backend: OnnxRuntimeCpu, manifest: Manifest, entry: GraphEntry, content: bytes
) -> Runner:
    """Load a graph as its export did to compare it: literally, where it is for other engines."""
    own = manifest.backends.get(backend.name)
    return backend.load(content, literal=own is not None and entry.precision not in own.precisions)


class _Selftest:
    def __init__(self, bundle: Bundle, backend: OnnxRuntimeCpu) -> None:
        self._bundle = bundle
        self._backend = backend
        vectors, check = read_golden(bundle)
        self._golden = None if vectors is None else GoldenVerifier(bundle.manifest, vectors)
        self.checks = [*check_manifest(bundle), check]
        for engine in bundle.manifest.engines:
            self.checks.append(read_graph(bundle, engine)[1])
        self._unproven: list[GraphEntry] = []

    def of_graph(self, entry: GraphEntry) -> Iterator[CheckResult]:
        content, check = read_graph(self._bundle, entry)
        yield check
        if content is None:
            return
        try:
            found = check_graph_file(entry, self._bundle.manifest, read_graph_file(content))
        except ValueError as error:
            yield CheckResult(entry.file, "loads", False, str(error))
            return
        for what, wrong in found.items():
            detail = wrong or "as the manifest says"
            yield CheckResult(entry.file, what, not wrong, detail)
        if found["contents"]:
            return  # no engine gets to see it
        try:
            run = load_as_exported(self._backend, self._bundle.manifest, entry, content)
        except BackendUnavailable:
            raise
        # An engine may raise anything of a graph that is not what it should be.
        except Exception as error:
            yield CheckResult(entry.file, "loads", False, one_line(error))
            return
        yield CheckResult(entry.file, "loads", True, f"by {self._backend.name}")
        if self._golden is None:
            return
        verdict = self._golden.check(entry, run)
        if verdict is not None:
            yield verdict
        elif entry.shape in MODALITY_SHAPES:
            self._unproven.append(entry)

    def of_modalities(self) -> Iterator[CheckResult]:
        """What only the heads could tell."""
        if self._golden is not None:
            yield from (self._golden.check_by_heads(entry) for entry in self._unproven)


def _silent(note: str) -> None:
    """Show nothing."""
