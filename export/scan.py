"""Expands the loop nodes of a traced graph into ONNX Scan."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ifmmin.export.encoders.loop import DOMAIN, OPERATOR, RUNNING_POOLINGS


def expand_loops(model: onnx.ModelProto) -> None:
    """Replace every `ifmmin::PooledLstm` of a model, in place."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type == OPERATOR:
            nodes.append(_scan(model, node))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    _drop_unread(model)


def _scan(model: onnx.ModelProto, node: NodeProto) -> NodeProto:
    """One Scan with hidden state, cell and, where it runs along, what is pooled as states."""
    products, recurrent, start, floor, inside = node.input
    pooling = helper.get_attribute_value(node.attribute[0]).decode()
    masked = not _is_empty(model, inside)
    running = pooling in RUNNING_POOLINGS and pooling != "last"
    body = _body(node.name, _constants(model)[recurrent], pooling, masked)
    states = [start, start, *([floor] if running else [])]
    result = node.output[0]
    # Outputs: the states at the end, then sequences. What is not read keeps a name of its own.
    names = [f"{result}_hidden", f"{result}_cell"]
    if running:
        names.append(result)
    elif pooling == "last":
        names[0] = result
    else:
        names.append(result)
    return helper.make_node(
        "Scan",
        [*states, products, *([inside] if masked else [])],
        names,
        name=node.name,
        body=body,
        num_scan_inputs=1 + masked,
        # Time is the second axis. With a Transpose in front ONNX Runtime 1.32 crashes while it
        # optimises a float16 graph.
        scan_input_axes=[1] * (1 + masked),
        scan_output_axes=[1] if pooling not in RUNNING_POOLINGS else None,
    )


def _body(name: str, recurrent: TensorProto, pooling: str, masked: bool) -> onnx.GraphProto:
    """One step: gates in order i, f, g, o of a product (B, 4H) and the last hidden state."""
    running = pooling in RUNNING_POOLINGS and pooling != "last"
    dtype = recurrent.data_type
    nodes = [
        helper.make_node("MatMul", ["hidden", recurrent.name], ["recurred"]),
        helper.make_node("Add", ["product", "recurred"], ["gates"]),
        helper.make_node("Split", ["gates"], ["i", "f", "g", "o"], axis=1, num_outputs=4),
        helper.make_node("Sigmoid", ["i"], ["input_gate"]),
        helper.make_node("Sigmoid", ["f"], ["forget_gate"]),
        helper.make_node("Sigmoid", ["o"], ["output_gate"]),
        helper.make_node("Tanh", ["g"], ["candidate"]),
        helper.make_node("Mul", ["forget_gate", "cell"], ["kept"]),
        helper.make_node("Mul", ["input_gate", "candidate"], ["added"]),
        helper.make_node("Add", ["kept", "added"], ["next_cell"]),
        helper.make_node("Tanh", ["next_cell"], ["shown"]),
        helper.make_node("Mul", ["output_gate", "shown"], ["new"]),
    ]
    if masked:
        nodes.append(helper.make_node("Where", ["inside", "new", "hidden"], ["next_hidden"]))
    else:
        nodes.append(helper.make_node("Identity", ["new"], ["next_hidden"]))
    nodes += _pooling(pooling, masked)
    for node in nodes:  # a second loop must not have nodes of the same names
        node.name = f"{name}/{node.output[0]}"
    states = ["hidden", "cell", *(["pooled"] if running else [])]
    following = ["next_hidden", "next_cell", *(["next_pooled"] if running else [])]
    sequence = [] if pooling in RUNNING_POOLINGS else ["output"]
    inputs = [_value(state, dtype) for state in [*states, "product"]]
    if masked:
        inputs.append(_value("inside", TensorProto.BOOL))
    outputs = [_value(x, dtype) for x in [*following, *sequence]]
    return helper.make_graph(nodes, f"{name}_body", inputs, outputs, initializer=[recurrent])


def _pooling(pooling: str, masked: bool) -> list[NodeProto]:
    if pooling == "maximum":
        return [helper.make_node("Max", ["pooled", "next_hidden"], ["next_pooled"])]
    if pooling == "sum":
        if not masked:
            return [helper.make_node("Add", ["pooled", "new"], ["next_pooled"])]
        return [
            helper.make_node("Add", ["pooled", "new"], ["more"]),
            helper.make_node("Where", ["inside", "more", "pooled"], ["next_pooled"]),
        ]
    if pooling == "last":
        return []
    return [helper.make_node("Identity", ["next_hidden"], ["output"])]


def _value(name: str, dtype: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [None, None])


def _constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = helper.get_attribute_value(node.attribute[0])
    return found


def _is_empty(model: onnx.ModelProto, name: str) -> bool:
    tensor = _constants(model).get(name)
    return tensor is not None and int(np.prod(numpy_helper.to_array(tensor).shape)) == 0


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove constants that nobody reads any more; what a body reads is its own."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    kept = [n for n in model.graph.node if n.op_type != "Constant" or n.output[0] in read]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
