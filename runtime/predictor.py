"""Answers from a bundle: the pattern is found from what is present, its graph does the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .backends import BackendOptions
from .bundle import Bundle, shipped
from .errors import BundleError, InputError
from .modality import ALL_PATTERNS, Modality, Pattern
from .prediction import Prediction, is_answer, no_answer, softmax, softmax_of_one
from .process import Lazy, abandon, register
from .sessions import AUTO, STREAM, Session, SessionConfig, SessionPool, Trial
from .validate import (
    Policy,
    Utterance,
    ValidatedInput,
    nothing_present,
    pad_batch,
    plan_batches,
    require_frontends,
    validate,
)

if TYPE_CHECKING:
    from .stream.options import StreamOptions
    from .stream.stream import Stream, StreamFactory, StreamGroup

_EMPTY: Mapping[str, int] = {}
_PATTERN_OF = {pattern.present: pattern for pattern in ALL_PATTERNS}
ON_EMPTY = ("error", "prior")


class Predictor:
    """Predicts with the graphs of a bundle, loading each at its first use.

    bundle: directory written by ifmmin-export; None: the one that comes with the package.
    backend: a backend's name; `auto` takes the fastest that answers the bundle's golden vectors
    rightly, measured per pattern and remembered.
    precision: `fp32`, another that was exported, or `auto` for any of them.
    threads: inside one call on the CPU, or `auto`.
    preload: load the graphs of all patterns now.
    share: answer all patterns from encoders that are loaded once, where the bundle has graphs for
    streams; seven patterns then hold little more memory than one, and a call takes some
    microseconds more. Default: as `preload`.
    on_empty: with nothing present raise InputError (`error`), or answer with the class shares of
    training (`prior`).
    policy: what counts as missing. options: what backends are told, such as the GPU.

    May be used from many threads, and in children that are forked: those load graphs of their own.
    A pickle or a copy of it is its arguments. Raises BundleError, BackendUnavailable or InputError,
    each saying what to do.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        backend: str = AUTO,
        precision: str = "fp32",
        threads: int | str = 1,
        preload: bool = False,
        share: bool | None = None,
        on_empty: str = "error",
        policy: Policy | None = None,
        options: BackendOptions | None = None,
    ) -> None:
        if on_empty not in ON_EMPTY:
            raise InputError(f"on_empty must be one of {', '.join(ON_EMPTY)}, got {on_empty!r}")
        self.requested = backend
        """What was asked for, `auto` or a backend's name."""
        config = SessionConfig(backend, precision, threads, options or BackendOptions())
        self.threads = threads
        """What was asked for: inside one call on the CPU, or `auto`."""
        self.bundle = Bundle(shipped() if bundle is None else bundle)
        """What it predicts with."""
        self._new = partial(
            type(self), bundle, backend=backend, precision=precision, threads=threads,
            preload=preload, share=share, on_empty=on_empty, policy=policy, options=options,
        )  # fmt: skip
        """Makes another like this one."""
        self._new_pool = partial(
            SessionPool, self.bundle, config, share=preload if share is None else share
        )
        self._pool = self._new_pool()
        self._specs = self.bundle.manifest.modalities
        self._labels = self.bundle.manifest.labels
        self._policy = policy or Policy()
        self._on_empty = on_empty
        self._prior = self._read_prior() if on_empty == "prior" else None
        if preload:
            for pattern in self.patterns:
                self._pool.get("latency", pattern)
        register(self, Predictor._begin_anew)

    def _begin_anew(self) -> None:
        """Load graphs anew when they are wanted; called in a child by the fork itself."""
        abandon(self.__dict__.copy())
        self.__dict__.pop("_streams", None)
        self._pool = self._new_pool()

    def __reduce__(self) -> tuple[Callable[[], Predictor], tuple[()]]:
        return self._new, ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of probabilities and logits."""
        return self._labels

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of which whole utterances can be answered."""
        return self._pool.patterns

    @property
    def stream_patterns(self) -> tuple[Pattern, ...]:
        """The patterns that streams can answer."""
        return self.bundle.stream_patterns

    @property
    def history(self) -> tuple[Trial, ...]:
        """What was tried so far to find how patterns are run; empty where it was remembered."""
        return tuple(self._pool.history)

    def explain(self) -> list[Trial]:
        """Try every way to run every pattern's graph anew, and say what came of each.

        Of a bundle for streams only: their graphs.
        """
        if not self.bundle.patterns:
            return self._pool.explain(STREAM, self.stream_patterns)
        return self._pool.explain("latency", self.bundle.patterns)

    def predict(
        self,
        utterance: Utterance,
        *,
        pattern: Pattern | str | None = None,
        quality: Mapping[str, float] | None = None,
        frontends: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Predict the emotion of one utterance.

        utterance: per modality an array (T, D) of raw features; None, empty and nothing but NaNs
        mean missing. pattern: use only these modalities, such as `a_t`, which must be present;
        None: use what is present. quality: per modality a score; one below the policy's minimum
        means missing. frontends: per modality the identity of the front-end that the features come
        from; those of another than the bundle's are refused.
        """
        if frontends:
            require_frontends(frontends, self._specs)
        only = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
        found = validate(utterance, self._specs, self._policy, quality, only=only)
        used = self._used(found, only)
        if used is None:
            return self._of_prior(found.absent, found.dropped)
        graph = self._pool.get("latency", used)
        inputs = {modality.value: found.features[modality] for modality in used}
        started = time.perf_counter()
        (logits,) = graph(inputs)
        seconds = time.perf_counter() - started
        winner, probabilities = softmax_of_one(logits)
        return self._answer(logits, probabilities, winner, used, graph, seconds, found)

    def predict_batch(
        self,
        utterances: Sequence[Utterance],
        *,
        pattern: Pattern | str | None = None,
        qualities: Sequence[Mapping[str, float] | None] | None = None,
        batch_size: int = 32,
    ) -> list[Prediction]:
        """Predict many utterances, whatever is present in each; answers in the same order.

        Those with the same pattern run together, padded, in batches of similar lengths, where the
        bundle has throughput graphs, which `ifmmin-export --shape throughput` adds; the answers are
        those of `predict` to 1e-4. Without them, and in int8, utterances go through the latency
        graph one after the other, with the very answers of `predict`: 32 of them then take 1.4 to
        3 times as long on one thread of a CPU, longest where all have the same length.
        """
        only = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
        lists: list[tuple[str, object]] = [("utterances", utterances)]
        lists += [("qualities", qualities)] if qualities is not None else []
        for what, given in lists:
            if not isinstance(given, Sequence) or isinstance(given, str | bytes):
                raise InputError(f"{what}: got {type(given).__name__}, wanted a list")
        if qualities is not None and len(qualities) != len(utterances):
            raise InputError(f"got {len(qualities)} qualities for {len(utterances)} utterances")
        found = [
            self._examined(index, utterance, qualities[index] if qualities else None, only)
            for index, utterance in enumerate(utterances)
        ]
        used = [self._used(one, only) for one in found]
        answers: list[Prediction | None] = [
            self._of_prior(one.absent, one.dropped) if chosen is None else None
            for one, chosen in zip(found, used, strict=True)
        ]
        for batch in plan_batches(found, used, batch_size):
            graph, rows, seconds = self._run_batch(batch.pattern, batch.inputs(found))
            probabilities = softmax(rows)
            for row, index in enumerate(batch.rows):
                with _named(index):
                    answers[index] = self._answer(
                        rows[row], probabilities[row], int(rows[row].argmax()), batch.pattern,
                        graph, seconds / len(batch.rows), found[index],
                    )  # fmt: skip
        return [answer for answer in answers if answer is not None]

    def stream(self, options: StreamOptions | None = None) -> Stream:
        """A stream: frames are pushed as they come, and `predict` answers at any moment.

        Loads the graphs of all patterns, once for all streams. Raises BundleError where the bundle
        has none for streams, InputError for options that it cannot keep.
        """
        from .stream.options import StreamOptions

        return self._streams.one(StreamOptions() if options is None else options)

    def streams(self, count: int, options: StreamOptions | None = None) -> StreamGroup:
        """`count` streams that are computed together, by graphs for batches."""
        from .stream.options import StreamOptions

        return self._streams.many(count, StreamOptions() if options is None else options)

    @Lazy
    def _streams(self) -> StreamFactory:
        """Imported when wanted: who asks for one answer should not wait for it."""
        from .stream.stream import StreamFactory

        graphs, candidate = self._pool.graphs()
        return StreamFactory(
            self.bundle,
            graphs,
            candidate,
            requested=self.requested,
            policy=self._policy,
            of_prior=self._of_prior if self._on_empty == "prior" else None,
        )

    def _run_batch(
        self, pattern: Pattern, inputs: list[dict[Modality, NDArray[np.float32]]]
    ) -> tuple[Session, NDArray[np.float32], float]:
        """Logits (B, C) of utterances of one pattern."""
        graph = self._graph_of_batches(pattern)
        started = time.perf_counter()
        if graph.loaded.entry.shape == "throughput":
            (rows,) = graph(pad_batch(inputs))
        else:
            single = [{m.value: x for m, x in features.items()} for features in inputs]
            rows = np.stack([graph(one)[0] for one in single])
        return graph, rows, time.perf_counter() - started

    def _graph_of_batches(self, pattern: Pattern) -> Session:
        """The throughput graph, or the latency graph where there is none, or where it finds the
        scale of its 8 bits in the whole batch: an answer would depend on its neighbours."""
        if self._pool.has("throughput", pattern):
            graph = self._pool.get("throughput", pattern)
            if graph.candidate.precision != "int8":
                return graph
        return self._pool.get("latency", pattern)

    def _examined(
        self,
        index: int,
        utterance: Utterance,
        quality: Mapping[str, float] | None,
        pattern: Pattern | None,
    ) -> ValidatedInput:
        with _named(index):
            return validate(utterance, self._specs, self._policy, quality, only=pattern)

    def _used(self, found: ValidatedInput, pattern: Pattern | None) -> Pattern | None:
        """The pattern to answer; None where nothing is present and the prior is asked for."""
        if pattern is not None:
            for modality in pattern:
                if modality not in self._specs:
                    raise InputError(
                        f"pattern {pattern} needs modality {modality}, which the bundle does not "
                        f"have; it has {', '.join(self._specs)}"
                    )
                if modality not in found.features:
                    raise InputError(
                        f"pattern {pattern} needs modality {modality}, which is missing "
                        f"({found.absent[modality]})"
                    )
            return pattern
        if found.features:
            return _PATTERN_OF[frozenset(found.features)]
        if self._on_empty == "error":
            raise nothing_present(found.absent)
        return None

    def _answer(
        self,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        winner: int,
        pattern: Pattern,
        graph: Session,
        seconds: float,
        found: ValidatedInput,
    ) -> Prediction:
        if not is_answer(probabilities):
            raise no_answer(graph.candidate.precision)
        if len(probabilities) != len(self._labels):
            raise BundleError(
                f"{graph.loaded.entry.file} answers with {len(probabilities)} logits for "
                f"{len(self._labels)} labels; export the bundle again"
            )
        return Prediction(
            self._labels[winner],
            probabilities,
            logits,
            pattern,
            graph.candidate.backend,
            self.requested,
            graph.candidate.precision,
            graph.loaded.placement,
            seconds,
            found.absent,
            found.dropped,
            self._labels,
        )

    def _of_prior(
        self, absent: Mapping[Modality, str], dropped: Mapping[Modality, int]
    ) -> Prediction:
        """What is known when nothing is present: how often each class occurs."""
        assert self._prior is not None
        label = self._labels[int(self._prior.argmax())]
        logits = np.log(np.maximum(self._prior, np.finfo(np.float32).tiny))
        return Prediction(
            label, self._prior.copy(), logits, None, "prior", self.requested, "none", _EMPTY, 0.0,
            absent, dropped, self._labels,
        )  # fmt: skip

    def _read_prior(self) -> NDArray[np.float32]:
        prior = self.bundle.manifest.prior
        if prior is None:
            raise InputError(
                f"the bundle {self.bundle.directory} does not know how often classes occur, so it "
                "has no answer where nothing is present; use on_empty='error'"
            )
        return np.array(prior, dtype=np.float32)


@contextmanager
def _named(index: int) -> Iterator[None]:
    """InputErrors begin with the number of the utterance that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"utterance {index}: {error}") from error
