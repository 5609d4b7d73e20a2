"""Counts what one call of a graph must compute and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ifmmin.benchmarks.limits.constants import find_constants
from ifmmin.benchmarks.limits.graph import load_onnx, read_graph
from ifmmin.benchmarks.limits.operators import (
    ELEMENTWISE,
    FREE,
    INTEGER_PRODUCTS,
    PRODUCTS,
    Call,
)
from ifmmin.benchmarks.limits.parts import node_parts
from ifmmin.benchmarks.limits.scan import Body, body_of
from ifmmin.benchmarks.limits.values import Value, all_values, input_values

if TYPE_CHECKING:
    import onnx

_RULES = {**PRODUCTS, **INTEGER_PRODUCTS, **ELEMENTWISE}
INT8 = "int8"


@dataclass(frozen=True)
class Work:
    """What a node, or a phase of it, does in one call of the graph."""

    node: str
    operator: str
    part: str
    """`a`, `v`, `t` or `head`."""
    kind: str
    """The arithmetic: `float32`, `float16` or `int8`."""
    arithmetic: int
    """Multiply-adds of one repeat."""
    weights: Mapping[str, int]
    """Bytes of every weight that each repeat reads."""
    repeats: int = 1
    """Steps of a recurrence, each of which needs the one before; 1 elsewhere."""


@dataclass(frozen=True)
class Count:
    """One call of a graph."""

    works: tuple[Work, ...]
    """In the order of the graph."""
    uncounted: tuple[str, ...]
    """Operators that are not known here, so that the graph does more than is counted."""

    @property
    def arithmetic(self) -> int:
        """Multiply-adds."""
        return sum(work.arithmetic * work.repeats for work in self.works)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, each once."""
        return sum({name: n for work in self.works for name, n in work.weights.items()}.values())

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that are read, each as often as a node or a step reads it."""
        return sum(sum(work.weights.values()) * work.repeats for work in self.works)


def count_graph(content: bytes, sizes: Mapping[str, int], owners: Mapping[str, str]) -> Count:
    """Count one call of the graph in the bytes of an ONNX file.

    sizes: of its free axes, see `axis_sizes`. owners: see `input_owners`. Raises InputError without
    the package onnx, or for a free axis without a size.
    """
    model = read_graph(content)
    values = all_values(model, input_values(model.graph, sizes))
    counter = _Counter(model, values, {}, "")
    counter.run(node_parts(model.graph, owners))
    return Count(tuple(counter.works), tuple(sorted(counter.uncounted)))


class _Counter:
    """Walks through the nodes of a graph, and of the loops in it.

    outer: weights of the graph around it. prefix: of the names of its own.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Mapping[str, Value],
        outer: Mapping[str, Mapping[str, int]],
        prefix: str,
    ) -> None:
        self.works: list[Work] = []
        self.uncounted: set[str] = set()
        self._model, self._values, self._prefix = model, values, prefix
        self._constants = {**outer, **find_constants(model.graph, values, prefix)}
        self._maker = {name: node.op_type for node in model.graph.node for name in node.output}

    def run(self, parts: Mapping[str, str], *, repeats: int = 1, part: str = "") -> None:
        """Count every node that is not constant.

        parts: of the nodes by their first output; `part` where all nodes are of the same.
        """
        for node in self._model.graph.node:
            if node.output[0] in self._constants:
                continue  # computed once, when the graph is loaded
            where = part or parts.get(node.output[0], "")
            if node.op_type == "Scan":
                self._loop(node, where, repeats)
            elif node.op_type in _RULES:
                self._count(node, where, repeats)
            elif node.op_type not in FREE:
                self.uncounted.add(node.op_type)

    def _count(self, node: onnx.NodeProto, part: str, repeats: int) -> None:
        given = tuple(self._values.get(name) for name in node.input)
        call = Call(given, self._values[node.output[0]], _attributes(node))
        for phase in _RULES[node.op_type](call):
            reads = range(len(given)) if phase.reads is None else phase.reads
            weights: dict[str, int] = {}
            for index in reads:
                if index < len(given):
                    weights.update(self._constants.get(node.input[index], {}))
            if phase.arithmetic or weights:
                work = Work(
                    node=self._prefix + node.name,
                    operator=node.op_type,
                    part=part,
                    kind=self._kind(node),
                    arithmetic=phase.arithmetic,
                    weights=weights,
                    repeats=phase.repeats * repeats,
                )
                self.works.append(work)

    def _kind(self, node: onnx.NodeProto) -> str:
        """8 bits also between Q/DQ pairs: an engine may take them as one operator."""
        pairs = {self._maker.get(name) for name in node.input[:2]} == {"DequantizeLinear"}
        if node.op_type in INTEGER_PRODUCTS or (node.op_type in PRODUCTS and pairs):
            return INT8
        return self._values[node.output[0]].dtype.name

    def _loop(self, node: onnx.NodeProto, part: str, repeats: int) -> None:
        body: Body = body_of(self._model, node, self._values)
        outer = {name: self._constants[name] for name in body.outer if name in self._constants}
        counter = _Counter(body.model, body.values, outer, f"{self._prefix}{node.name}/")
        counter.run({}, repeats=repeats * body.trips, part=part)
        self.works += counter.works
        self.uncounted |= counter.uncounted


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    helper = load_onnx().helper
    return {given.name: helper.get_attribute_value(given) for given in node.attribute}
