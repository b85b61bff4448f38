"""Write a plan with tile scales, and the map of the tiles for a chip's compiler.

The graph is that of `onnxq.emit.qdq`, weights in blocks (`onnxq.emit.blocks`). Every node with
weights on arrays tells in its ``metadata_props``::

    onnxq.crossbar.array = 128x64             size of an array: inputs × outputs
    onnxq.crossbar.weight = 1                 the input of the node that lies on arrays
    onnxq.crossbar.bits = 4
    onnxq.crossbar.matrix = 1x576x64          groups × inputs × outputs
    onnxq.crossbar.rows = input: 64, kernel 0: 3, kernel 1: 3      a row's number, slowest first
    onnxq.crossbar.tiles = 1x5x1              of each group: along inputs, along outputs
    onnxq.crossbar.utilisation = 0.9          cells with a weight ÷ cells of its arrays
    onnxq.crossbar.codes = codes 0            in the sidecar, and likewise ``scales``

and, where rows or columns are not stored in their natural order::

    onnxq.crossbar.row_order = row order 0    in the sidecar, and likewise ``column_order``
    onnxq.crossbar.index_bits = 5760          what the tables of the index unit take

The table and its arrays, see docs/crossbar.md, say the same with the place of every tile.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from onnxq.emit.biases import Fitted
from onnxq.emit.qdq import Emitted, emit_qdq
from onnxq.graph.edit import add_metadata
from onnxq.graph.io import Model, array_of
from onnxq.graph.opset import METADATA_IR, raise_ir
from onnxq.numerics.affine import quantize
from onnxq.numerics.matrices import column_order, index_bits, matrices, row_order, utilisation
from onnxq.plan import NodePlan, Plan, WeightPlan
from onnxq.recipe import crossbar_size
from onnxq.types import Array, MatrixView, QuantParams, Tile

FORMAT = "onnxq crossbar 1"
NATURAL = "natural"  # stands where the name of an order would
ORDERS = ("row_order", "column_order")
SUMMED = ("arrays", "used", "cells", "index_bits")


def emit_crossbar(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams], fitted: Fitted
) -> Emitted:
    """Write the plan into the model, in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters of every activation of the plan, by tensor name.
        fitted: Parameters of the weights.

    Returns:
        What was written, with the map of the tiles, codes and scales.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    layers: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for node_plan in plan.nodes.values():
        for weight in node_plan.weights:
            node, params = nodes[node_plan.output], fitted.weights[node_plan.output, weight.index]
            layer = _layer(node_plan, weight, params, len(layers))
            codes = quantize(array_of(node.inputs[weight.index]), params)
            arrays[layer["codes"]] = matrices(codes, params.matrix)
            arrays[layer["scales"]] = params.scale
            arrays.update(_orders(layer, params.matrix))
            add_metadata(node, _metadata(layer, params.tile))
            layers.append({**layer, "tiles": list(_tiles(layer, params.tile))})
    emitted = emit_qdq(model, plan, activations, fitted)
    raise_ir(model.proto, METADATA_IR)
    size = crossbar_size(plan.recipe.crossbar or "")
    sums = {key: sum(layer[key] for layer in layers) for key in SUMMED}
    table = {
        "format": FORMAT,
        "target": plan.target.name,
        "array": list(size),
        **sums,
        "utilisation": sums["used"] / sums["cells"],
        "layers": layers,
    }
    return replace(emitted, table=table, arrays=arrays)


def _layer(node: NodePlan, weight: WeightPlan, params: QuantParams, number: int) -> dict[str, Any]:
    """Return what the table says of one layer, but for its tiles."""
    view = params.matrix
    assert view is not None
    used, cells = utilisation(view, params.tile)
    axes = {"group": view.groups, "rows": view.rows, "columns": view.columns}
    return {
        "name": node.label,
        "op": node.op,
        "output": node.output,
        "input": weight.index,
        "weight": weight.name,
        "bits": params.dtype.bits,
        "matrix": list(view.shape),
        **{key: [[view.names[i], view.split[i]] for i in found] for key, found in axes.items()},
        "grid": list(params.scale.shape),
        "arrays": params.scale.size,
        "used": used,
        "cells": cells,
        "utilisation": used / cells,
        "codes": f"codes {number}",
        "scales": f"scales {number}",
        "row_order": f"row order {number}" if view.row_order else NATURAL,
        "column_order": f"column order {number}" if view.column_order else NATURAL,
        "index_bits": index_bits(view),
    }


def _orders(layer: Mapping[str, Any], view: MatrixView | None) -> Iterator[tuple[str, Array]]:
    """Yield name and values of the orders that are not natural."""
    assert view is not None
    orders = row_order(view), column_order(view)
    for key, order in zip(ORDERS, orders, strict=True):
        if layer[key] != NATURAL:
            yield layer[key], order.astype(np.min_scalar_type(order.max()))


def _tiles(layer: Mapping[str, Any], tile: Tile) -> Iterator[dict[str, Any]]:
    """Yield the place of every tile, in the order of the scales."""
    _, rows, columns = layer["matrix"]
    for group, row, column in product(*map(range, layer["grid"])):
        top, left = row * tile[1], column * tile[2]
        yield {
            "group": group,
            "rows": [top, min(top + tile[1], rows)],
            "columns": [left, min(left + tile[2], columns)],
        }


def _metadata(layer: Mapping[str, Any], tile: Tile) -> dict[str, str]:
    """Return the entries of a node."""
    values = {
        "array": "x".join(map(str, tile[1:])),
        "weight": layer["input"],
        "bits": layer["bits"],
        "matrix": "x".join(map(str, layer["matrix"])),
        "rows": ", ".join(f"{name}: {size}" for name, size in layer["rows"]),
        "tiles": "x".join(map(str, layer["grid"])),
        "utilisation": round(layer["utilisation"], 6),
        "codes": layer["codes"],
        "scales": layer["scales"],
    }
    if layer["index_bits"]:
        orders = {key: layer[key] for key in ORDERS if layer[key] != NATURAL}
        values.update(orders, index_bits=layer["index_bits"])
    return {f"onnxq.crossbar.{key}": str(value) for key, value in values.items()}
