"""From a predictor's bundle and graphs to its streams."""

from __future__ import annotations

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.candidates import Candidate
from ifmmin.runtime.parts import Parts
from ifmmin.runtime.stream.conclude import Concluder, OfPrior
from ifmmin.runtime.stream.engine import Engine
from ifmmin.runtime.stream.group import StreamGroup
from ifmmin.runtime.stream.numeric import as_count, refusal
from ifmmin.runtime.stream.options import StreamOptions
from ifmmin.runtime.stream.session import Rules
from ifmmin.runtime.stream.stream import Stream
from ifmmin.runtime.validate import Policy


class Streams:
    """Makes streams, all of which share one set of loaded graphs."""

    def __init__(
        self,
        bundle: Bundle,
        parts: Parts,
        candidate: Candidate,
        *,
        requested: str,
        policy: Policy,
        of_prior: OfPrior | None,
    ) -> None:
        manifest = bundle.manifest
        self._specs = manifest.modalities
        self._policy = policy
        self._engine = Engine(
            parts, candidate, self._specs, bundle.stream_patterns, manifest.checkpoint.sha256
        )
        self._concluder = Concluder(manifest.labels, requested, self._engine, of_prior)

    def one(self, options: StreamOptions) -> Stream:
        """A stream that hears what is pushed at once."""
        return Stream(self._engine, self._rules(options), self._concluder)

    def many(self, count: int, options: StreamOptions) -> StreamGroup:
        """Streams that move on together."""
        count = as_count("streams", count, 1, "a whole number of at least 1")
        return StreamGroup(self._engine, self._rules(options), self._concluder, count)

    def _rules(self, options: StreamOptions) -> Rules:
        if not isinstance(options, StreamOptions):
            raise refusal("options", options, "StreamOptions(...)")
        return Rules(self._specs, self._policy, options)
