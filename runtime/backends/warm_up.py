"""One run of a graph on the smallest inputs that it takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ifmmin.runtime.backends.base import Runner
from ifmmin.runtime.backends.engine_profile import profile_of
from ifmmin.runtime.manifest import GraphEntry, ModalitySpec
from ifmmin.runtime.modality import Modality


def run_smallest(
    run: Runner, entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec]
) -> None:
    """Run a graph on zeros; whatever it raises passes through. Lengths are 1."""
    profile = profile_of(entry, modalities, batch=(1, 1, 1))
    inputs = {}
    for tensor in entry.inputs:
        spec = profile.get(tensor.name)
        shape = tuple(int(size) for size in (spec.minimum if spec else tensor.shape))
        value = 1 if tensor.dtype == "int64" else 0
        inputs[tensor.name] = np.full(shape, value, np.dtype(tensor.dtype))
    run(inputs)
