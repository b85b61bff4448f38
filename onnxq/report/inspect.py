"""A model, or the plan for it, as lines and plain values."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxq.graph.query import TensorType
from onnxq.graph.summary import Summary
from onnxq.inspection import Planned
from onnxq.movable import Movable, Reach
from onnxq.report.values import pass_dict
from onnxq.types import QuantSpec

LONGEST = 160  # characters of a metadata value
WIDEST = 40  # characters of a column
QUOTED = r"'[^']*'"  # the names in a reason, which differ from node to node


def summary_lines(found: Summary) -> Iterator[str]:
    """Yield what a model is made of."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    yield f"{found.path}: opset {opsets}; IR {found.ir}; onnxruntime {found.onnxruntime} or newer"
    if found.producer:
        yield f"made by {found.producer}"
    for kind, tensors in (("input", found.inputs), ("output", found.outputs)):
        for name, tensor in tensors.items():
            yield f"{kind} {name}: {_type(tensor)}"
    ops = ", ".join(f"{count} {op}" for op, count in found.ops.items())
    yield f"{sum(found.ops.values())} nodes: {ops or 'none'}"
    yield f"{found.weights} constants, {found.weight_bytes / 1e6:.2f} MB"
    yield from _macs(found.macs)
    for key, value in found.metadata.items():
        yield f"metadata {key}: {_short(value)}"


def _short(text: str) -> str:
    """Bring a text into one line of bearable length."""
    line = " ".join(text[: 2 * LONGEST].split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}… ({len(text)} characters)"


def _type(tensor: TensorType) -> str:
    """Spell an element type and a shape, open axes as ``?``."""
    if tensor.shape is None:
        return f"{tensor.dtype}, shape unknown"
    sizes = "×".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.dtype} {sizes or 'scalar'}"


def _macs(macs: Mapping[str, int | None]) -> Iterator[str]:
    """Yield the multiply-adds and the nodes with the largest share of them."""
    known = {name: count for name, count in macs.items() if count is not None}
    total = sum(known.values())
    if total:
        largest = sorted(known, key=lambda name: -known[name])[:3]
        shares = ", ".join(f"{name} {100 * known[name] / total:.0f} %" for name in largest)
        yield f"{total / 1e6:.1f} million multiply-adds a sample; most: {shares}"
    if len(known) < len(macs):
        yield f"multiply-adds of {len(macs) - len(known)} nodes are unknown: their shapes are open"


def summary_dict(found: Summary) -> dict[str, Any]:
    """Return what a model is made of as plain values."""
    tensors = {
        kind: {
            name: {"dtype": t.dtype, "shape": None if t.shape is None else list(t.shape)}
            for name, t in values.items()
        }
        for kind, values in (("inputs", found.inputs), ("outputs", found.outputs))
    }
    return {
        "path": found.path,
        "ir": found.ir,
        "opsets": dict(found.opsets),
        "onnxruntime": found.onnxruntime,
        "producer": found.producer,
        **tensors,
        "ops": dict(found.ops),
        "weights": found.weights,
        "weight_bytes": found.weight_bytes,
        "multiply_adds": dict(found.macs),
        "metadata": dict(found.metadata),
    }


def plan_text(found: Planned) -> Iterator[str]:
    """Yield counts, then a line for every node and every quantized tensor."""
    yield from plan_lines(found)
    for report in {report.name: report for report in found.passes}.values():  # its last run
        for reason, count in Counter(reason for _, reason in report.skipped).most_common():
            yield f"{report.name} left {count} as it is: {reason}"
    content = plan_dict(found)
    nodes = [(n["name"], n["op"], _kind(n), n["reason"]) for n in content["nodes"]]
    yield from _columns(("node", "op", "runs in", "reason"), nodes)
    keys = ("name", "dtype", "granularity", "range", "shares", "reason")
    tensors = [tuple(str(t[key] or "–") for key in keys) for t in content["tensors"]]
    headings = ("tensor", "type", "one scale a", "range", "shares with", "reason")
    yield from _columns(headings, tensors)
    if found.reach is not None:
        yield from _reach_lines(found.reach)


def _reach_lines(reach: Movable) -> Iterator[str]:
    """Yield what an order can change, and a line for every layer whose channels move."""
    yield ""
    what = "channels" if reach.layers else "rows and columns"
    yield (
        f"nothing can change places: {reach.nothing}"
        if reach.nothing
        else f"{sum(reach.families)} {what} in {len(reach.families)} families can change places"
    )
    if reach.layers:
        rows = [(each.label, _reach(each.outputs), _reach(each.inputs)) for each in reach.layers]
        yield from _columns(("layer on tiles", "outputs", "inputs"), rows)


def _reach(reach: Reach) -> str:
    """Say how many channels move, how many stay, and the most frequent reason for that."""
    told = [f"{count} move (family {number})" for number, count in reach.moves.items()]
    if reach.idle:
        told.append(f"{reach.idle} could move, but no tile would change")
    if reach.stays:
        most = max(reach.stays, key=reach.stays.__getitem__)
        told.append(f"{sum(reach.stays.values())} stay: {most}" if told else f"stay: {most}")
    return ", ".join(told)


def _reach_dict(found: Movable) -> dict[str, Any]:
    """Return what an order can change as plain values."""
    layers = [
        {
            "name": each.label,
            "op": each.op,
            "weight": each.weight,
            **{
                side: {
                    "moves": [{"family": k, "channels": n} for k, n in reach.moves.items()],
                    "idle": reach.idle,
                    "stays": dict(reach.stays),
                }
                for side, reach in (("outputs", each.outputs), ("inputs", each.inputs))
            },
        }
        for each in found.layers
    ]
    families = list(found.families)
    return {"families": families, "nothing": found.nothing or None, "layers": layers}


def _kind(node: Mapping[str, Any]) -> str:
    """Say what a node computes on."""
    if node["weight_only"]:
        return "float, integer weights"
    return "integer" if node["quantized"] else "float"


def _columns(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows as lines, cells below each other; long cells push theirs aside."""
    widths = [
        min(max(len(row[i]) for row in (headings, *rows)), WIDEST) for i in range(len(headings) - 1)
    ]
    yield ""
    for row in (headings, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True))
        yield "  ".join((*cells, row[-1]))


def plan_lines(found: Planned) -> Iterator[str]:
    """Yield how many nodes and tensors are quantized, and why the others are not."""
    nodes = found.plan.nodes.values()
    counts = Counter(node.op for node in nodes if node.quantized)
    quantized = ", ".join(f"{count} {op}" for op, count in counts.most_common())
    share = f"{counts.total()} of {len(nodes)} nodes"
    yield f"{share} quantized on {found.plan.target.name}: {quantized}"
    weights = sum(len(node.weights) for node in nodes)
    biases = sum(1 for node in nodes if node.bias is not None)
    yield f"{len(found.plan.activations)} activations, {weights} weights, {biases} biases quantized"
    if found.covered is not None:
        yield f"{100 * found.covered:.1f} % of the multiply-adds that the shapes tell of"
    before, after = found.opset
    if after > before:
        yield f"opset {before} → {after}, which {found.needs} need"
    floats = [node for node in nodes if not node.quantized]
    reasons = Counter((node.op, re.sub(QUOTED, "…", node.reason)) for node in floats)
    for (op, reason), count in reasons.most_common():
        yield f"float: {count} {op}: {reason}"


def plan_dict(found: Planned) -> dict[str, Any]:
    """Return every node and every quantized tensor as plain values."""
    plan = found.plan
    nodes = [
        {"name": n.label, "op": n.op, "output": n.output, "quantized": n.quantized,
         "weight_only": n.weight_only, "reason": n.reason,
         "multiply_adds": found.macs.get(n.label)}
        for n in plan.nodes.values()
    ]  # fmt: skip
    tensors = [
        _tensor(a.name, "activation", a.spec, a.reason, None if a.shares == a.name else a.shares)
        for a in plan.activations.values()
    ]
    for node in plan.nodes.values():
        for weight in node.weights:
            reason = f"input {weight.index} of {node.label}"
            reason += f"; per tensor: {weight.whole}" if weight.whole else ""
            tensors.append(_tensor(weight.name, "weight", weight.spec, reason))
    return {
        "target": plan.target.name,
        "recipe": plan.recipe.to_dict(),
        "opset": {"float": found.opset[0], "quantized": found.opset[1]},
        "multiply_adds_quantized": found.covered,
        "passes": [pass_dict(report) for report in found.passes],
        "nodes": nodes,
        "tensors": tensors,
        **({} if found.reach is None else {"reordering": _reach_dict(found.reach)}),
    }


def _tensor(
    name: str, kind: str, spec: QuantSpec, reason: str, shares: str | None = None
) -> dict[str, Any]:
    """Return one quantized tensor as plain values."""
    return {
        "name": name,
        "kind": kind,
        "dtype": spec.dtype.name,
        "symmetric": spec.symmetric,
        "granularity": _granularity(spec),
        "range": spec.range.name,
        "shares": shares,
        "reason": reason,
    }


def _granularity(spec: QuantSpec) -> str:
    """Say how far one scale reaches."""
    if not spec.tile:
        return "tensor"
    if spec.matrix is not None:
        return _tile(*spec.tile[1:])
    return f"channel, axis {spec.tile.index(1)}" if 1 in spec.tile else f"tile {spec.tile}"


def _tile(rows: int, columns: int) -> str:
    """Spell a tile of a matrix; one column is a block of the inputs of an output."""
    return f"block {rows}" if columns == 1 else f"tile {rows}x{columns}"
