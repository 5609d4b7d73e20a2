"""The least that graphs of a bundle take on this processor, which is measured when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ifmmin.benchmarks.limits import (
    Bound,
    Rates,
    axis_sizes,
    count_graph,
    input_owners,
    lower_bound,
    measure_rates,
)
from ifmmin.benchmarks.scenarios.entrant import Way
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Modality, Pattern

_ON_CPU = ("onnxruntime-cpu", "openvino")


class Bounds:
    """Bounds of a bundle's graphs. refuse: hears why there are none, with the threads."""

    def __init__(self, bundle: Bundle, refuse: Callable[[str, int, Exception], None]) -> None:
        self._bundle = bundle
        self._refuse = refuse
        self._rates: dict[int, Rates | None] = {}

    @property
    def measured(self) -> tuple[Rates, ...]:
        """What the processor does, by number of threads, as far as it was asked."""
        return tuple(rates for rates in self._rates.values() if rates is not None)

    def rates(self, threads: int) -> Rates | None:
        """What this processor can do; None without the package that counts, which is noted."""
        if threads not in self._rates:
            try:
                import onnx  # noqa: F401 - graphs are counted with it

                self._rates[threads] = measure_rates(threads)
            except (ImportError, IfmminError) as error:
                self._refuse("bound", threads, error)
                self._rates[threads] = None
        return self._rates[threads]

    def of(
        self, pattern: Pattern, way: Way, lengths: Mapping[Modality, int], batch: int = 1
    ) -> Bound | None:
        """The bound of one call of a pattern's graph; None where it is not known."""
        rates = self.rates(way.threads)
        if rates is None or way.backend not in _ON_CPU:
            return None
        shape = "latency" if batch == 1 else "throughput"
        entry = self._bundle.entry(pattern, way.precision, shape, way.backend)
        sizes = axis_sizes({m.value: lengths[m] for m in pattern}, batch)
        count = count_graph(self._bundle.graph(entry), sizes, input_owners(entry))
        return lower_bound(count, rates)
