"""Runs a graph and shows values inside of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ifmmin.runtime.backends import Runner

Load = Callable[[onnx.ModelProto], Runner]
Seen = dict[str, NDArray[np.float32]]


class Watched:
    """A graph that gives some values, also inputs and what is no output, with every call."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str], load: Load) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        given = {value.name for value in made.graph.input}
        self._outputs = len(made.graph.output)
        self._more = sorted(set(names) - given)
        made.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in self._more)
        self._run = load(made)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[list[NDArray[Any]], Seen]:
        """The graph's outputs, and the values by name."""
        found = self._run(inputs)
        more = zip(self._more, found[self._outputs :], strict=True)
        return found[: self._outputs], {**inputs, **dict(more)}
