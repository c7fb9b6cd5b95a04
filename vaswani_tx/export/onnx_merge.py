"""The merged decoder that transformers.js runs: one file, whose input `use_cache_branch` chooses between the two."""

from pathlib import Path
from typing import Any

BRANCH = "use_cache_branch"


def merge_decoders(place: Path) -> None:
    """Write decoder_model_merged.onnx from decoder_model.onnx and decoder_with_past_model.onnx, weights once.

    Both branches return all keys and values; the one with a cache returns those of the source as they came.
    """
    import onnx
    from onnx import TensorProto, helper

    first, later = (onnx.load(place / f"{name}.onnx") for name in ("decoder_model", "decoder_with_past_model"))
    weights: dict[bytes, Any] = {}
    branches = []
    for prefix, model in (("first", first), ("later", later)):
        branches.append(_branch(prefix, model.graph, weights))
    outputs = [value.name for value in first.graph.output]
    for prefix, graph in zip(("first", "later"), branches, strict=True):
        present = {value.name for value in graph.output}
        for name in outputs:
            inner = f"{prefix}/{name}"
            if inner not in present:  # of the source
                past = name.replace("present", "past_key_values")
                graph.node.append(helper.make_node("Identity", [past], [inner]))
                graph.output.append(_named(_find(first.graph.output, name), inner))
        by_name = {value.name: value for value in graph.output}
        ordered = [by_name[f"{prefix}/{name}"] for name in outputs]
        del graph.output[:]
        graph.output.extend(ordered)
    choice = helper.make_node("If", [BRANCH], outputs, then_branch=branches[1], else_branch=branches[0])
    inputs = {value.name: value for model in (first, later) for value in model.graph.input}
    # Of the two forms of an input that of the first step has every length.
    inputs |= {value.name: value for value in first.graph.input}
    graph = helper.make_graph(
        [choice],
        "decoder_model_merged",
        [*inputs.values(), helper.make_tensor_value_info(BRANCH, TensorProto.BOOL, [1])],
        [_without_shape(value) for value in first.graph.output],
        initializer=list(weights.values()),
    )
    merged = helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    merged.functions.extend(first.functions)
    onnx.save(merged, place / "decoder_model_merged.onnx")


def _branch(prefix: str, graph: Any, weights: dict[bytes, Any]) -> Any:
    """Return a graph without inputs: its own names get a prefix, its weights those of the shared ones."""
    import onnx
    from onnx import helper

    renamed = {value.name: value.name for value in graph.input}
    for tensor in graph.initializer:
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.name = ""
        key = bare.SerializeToString()
        if key not in weights:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = f"weight_{len(weights)}"
            weights[key] = kept
        renamed[tensor.name] = weights[key].name
    nodes = []
    for node in graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{prefix}/{node.name}" if node.name else ""
        for place, name in enumerate(node.input):
            copied.input[place] = renamed.get(name, f"{prefix}/{name}") if name else ""
        for place, name in enumerate(node.output):
            copied.output[place] = f"{prefix}/{name}" if name else ""
        nodes.append(copied)
    outputs = []
    for value in graph.output:
        if value.name in renamed:  # what comes in goes out
            nodes.append(helper.make_node("Identity", [renamed[value.name]], [f"{prefix}/{value.name}"]))
        outputs.append(_named(value, f"{prefix}/{value.name}"))
    return helper.make_graph(nodes, prefix, [], outputs)


def _find(values: Any, name: str) -> Any:
    return next(value for value in values if value.name == name)


def _named(value: Any, name: str) -> Any:
    copied = _without_shape(value)
    copied.name = name
    return copied


def _without_shape(value: Any) -> Any:
    """Return a copy whose dimensions that are named have no name: the branches differ in them."""
    import onnx

    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    for dimension in copied.type.tensor_type.shape.dim:
        if dimension.dim_param:
            dimension.Clear()
    return copied
