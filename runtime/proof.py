"""Whether what was loaded to be tried answers the golden vectors as the network did."""

from __future__ import annotations

from functools import cached_property

from ifmmin.runtime.backends import Loaded
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check_golden import GoldenRun, GoldenVectors, read_golden
from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.parts import Parts


class Proof:
    """The golden vectors of a bundle, read when they are first wanted."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @cached_property
    def vectors(self) -> GoldenVectors:
        """Inputs and answers; BundleError where the file is damaged."""
        vectors, check = read_golden(self._bundle)
        if vectors is None:
            raise BundleError(f"{check}")
        return vectors

    def fault(self, loaded: Loaded) -> str:
        """Why a graph of utterances answers wrongly; empty where it answers rightly."""
        return _fault(self._run(), loaded)

    def fault_of_stream(self, parts: Parts, pattern: Pattern) -> str:
        """The same of the graphs of streams: as the vectors come in chunks, and each at once.

        States that are wrong show only after some calls. Other streams of the same parts go on.
        """
        golden = self._run()
        with parts.lock:
            encoders = [parts.encoder(modality) for modality in pattern]
            head, whole = parts.head(pattern), parts.whole(pattern)
        steps, summaries = [one.step for one in encoders], [one.summary for one in encoders]
        for graph in (*steps, *summaries, head):
            fault = _fault(golden, parts.in_turn(graph))
            if fault:
                return f"{graph.entry.file} in chunks: {fault}"
        return _fault(golden, parts.in_turn(whole), whole=True)

    def _run(self) -> GoldenRun:
        return GoldenRun(self._bundle.manifest, self.vectors)


def _fault(golden: GoldenRun, loaded: Loaded, *, whole: bool = False) -> str:
    check = golden.check(loaded.entry, loaded.run, whole=whole)
    return "" if check is None or check.passed else check.detail
