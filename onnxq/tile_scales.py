"""Choose the scales of tiles by the output of their layer, on the samples a table keeps."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from onnxq.feeds import Batch
from onnxq.graph.io import Model, Node, array_of
from onnxq.graph.session import Runtime, values_of
from onnxq.graph.unfold import CONVOLUTIONS, row_reader
from onnxq.numerics.gram import cosine_scales
from onnxq.numerics.matrices import matrices, stored_products
from onnxq.plan import Key, Plan
from onnxq.types import Array, MatrixView, QuantParams

log = logging.getLogger(__name__)


def searched(
    model: Model,
    plan: Plan,
    weights: Mapping[Key, QuantParams],
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[Key, QuantParams]:
    """Return parameters of all weights, scales moved to the best cosine of each layer's output.

    Each layer reads what it reads in the float model. Stacks of matrices keep their scales.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        weights: Parameters to begin with, by first output of the node and input index.
        samples: Inputs to measure on.
        runtime: How to run the model.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    found = dict(weights)
    layers = {
        key: (nodes[key[0]], params.matrix)
        for key, params in weights.items()
        if params.matrix is not None and _is_single(nodes[key[0]], params.matrix)
    }
    for key, gram in _grams(model, layers, samples, runtime):
        node, params = nodes[key[0]], weights[key]
        stack = matrices(array_of(node.inputs[key[1]]), params.matrix)
        size = params.tile[1], params.tile[2]
        scale = cosine_scales(stack, gram, params.scale, size, params.dtype)
        found[key] = replace(params, scale=scale)
        moved = int((scale != params.scale).sum())
        log.info("%s: %d of %d tile scales moved", plan.nodes[key[0]].label, moved, scale.size)
    return found


def _is_single(node: Node, view: MatrixView) -> bool:
    """Say whether a layer has one matrix, or one for each of its groups."""
    return node.op in CONVOLUTIONS or view.shape[0] == 1


def _grams(
    model: Model,
    layers: Mapping[Key, tuple[Node, MatrixView]],
    batches: Iterable[Batch],
    runtime: Runtime,
) -> Iterator[tuple[Key, Array]]:
    """Yield the sums of products of what each layer reads, in the order of its stored rows."""
    read = {key: node.inputs[1 - key[1]].name for key, (node, _) in layers.items()}
    feeds = (batch.inputs for batch in batches)
    values = list(values_of(model, read.values(), feeds, runtime))
    for key, (node, view) in layers.items():
        rows_of = row_reader(model, node, key[1], view, runtime)
        groups, rows, _ = view.shape
        gram = np.zeros((groups, rows, rows))
        for each in values:
            row = rows_of(each[read[key]])
            gram += row @ row.transpose(0, 2, 1)
        yield key, stored_products(gram, view)
