"""What is asked of one tensor: recipe over target, checked against what the target can do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxq.choose import Context
from onnxq.errors import RecipeError, UnsupportedError
from onnxq.graph.io import Constant, Node, Tensor
from onnxq.graph.matrices import matrix_view
from onnxq.graph.query import activation_bounds, gate_bound, label, output_channel_axis
from onnxq.numerics.tiles import channel_tile
from onnxq.ranges import RANGES, range_algorithm
from onnxq.ranges.fixed import Fixed
from onnxq.recipe import FLOAT, ROWS, TensorRule, block, channels, crossbar_size
from onnxq.targets import Target
from onnxq.types import ANY_POSITION, IntType, MatrixView, QuantSpec, RangeAlgorithm, Tile


def activation_spec(context: Context, node: Node, tensor: Tensor) -> QuantSpec:
    """Return what is asked of an activation.

    Args:
        context: What choosing looked at.
        node: The chosen node that reads or writes it.
        tensor: The activation.

    Raises:
        RecipeError: The recipe names an unknown algorithm or type, or channels and an algorithm
            that needs histograms.
        UnsupportedError: The target has no such element type or granularity.
    """
    named = context.recipe.named(tensor.name)
    asked = named.over(context.rule(node).activations).over(context.recipe.activations)
    producer = tensor.inputs[0] if tensor.inputs else None
    bounds = (-np.inf, np.inf) if producer is None else activation_bounds(producer)
    if tensor.name not in context.outputs:
        bounds = (max(bounds[0], gate_bound(tensor)), bounds[1])
    spec = _spec(context, asked, "activations", bounds=bounds)
    rule = context.target.ops.get(producer.op) if producer is not None else None
    if rule is not None and rule.output_range and named.range is None:
        low, high = rule.output_range
        return replace(spec, range=Fixed(lo=low, hi=high), symmetric=context.target.power_of_two)
    return spec


def weight_spec(context: Context, node: Node, index: int, tensor: Constant) -> QuantSpec:
    """Return what is asked of a constant input.

    It is a weight of an operator with the role ``compute``; else it is treated like an
    activation.

    Raises:
        RecipeError: The recipe names an unknown algorithm, type or granularity.
        UnsupportedError: The target has no such element type or granularity.
    """
    rule, named = context.rule(node), context.recipe.named(tensor.name)
    if context.op(node).role != "compute":
        like = TensorRule(range="minmax").over(rule.activations.over(context.recipe.activations))
        return _spec(context, named.over(like), "activations")
    needed = TensorRule(**context.op(node).weights)
    asked = needed.over(named.over(rule.weights.over(context.recipe.weights)))
    if context.target.tiled:
        return _tiled_spec(context, node, index, tensor, asked)
    granularity = asked.granularity or context.target.weights["granularity"]
    allowed = _weight_types(context, node)
    try:
        size = block(granularity)
    except ValueError as error:
        raise RecipeError(f"weight {tensor.name!r}: {error}") from error
    if size is not None:
        _check_blocks(context, node)
        if context.recipe.fuse_blocks and _is_fused(context, node, index, tensor):
            return _spec(context, asked, "weights", tile=(size, 1), allowed=allowed)
        spec = _spec(context, asked, "weights", tile=(1, size, 1), allowed=allowed)
        return _blocked(spec, matrix_view(node, index, tuple(tensor.shape)))
    rank = len(tensor.shape)
    axis = output_channel_axis(node, index, rank) if granularity == "channel" else None
    tile = channel_tile(rank, axis) if axis is not None else ()
    return _spec(context, asked, "weights", tile=tile, allowed=allowed)


def _weight_types(context: Context, node: Node) -> Sequence[str]:
    """Return the element types the weights of a node may have."""
    types = context.target.dtypes
    alone = context.is_weight_only(node)
    return types.get("weight_only", types["weights"]) if alone else types["weights"]


def _check_blocks(context: Context, node: Node) -> None:
    """Refuse blocks where the target cannot have them."""
    name, blocks = context.target.name, context.target.blocks
    if blocks == "never":
        raise UnsupportedError(f"target {name} has no blocks of weights with a scale of their own")
    if blocks == "float" and not context.is_weight_only(node):
        raise UnsupportedError(
            f"target {name} has blocks of weights only where activations stay float "
            f"(--activations float), and those of {label(node)} do not"
        )


def _is_fused(context: Context, node: Node, index: int, tensor: Constant) -> bool:
    """Say whether a runtime may take blocks of a weight into its operator.

    That is a MatMul of floats with a matrix on its right.
    """
    plain = node.op == "MatMul" and index == 1 and len(tensor.shape) == 2
    return plain and context.is_weight_only(node)


def _blocked(spec: QuantSpec, view: MatrixView) -> QuantSpec:
    """Let the tile of a specification cut matrices; only unsigned blocks have zero points."""
    if spec.dtype.bits > 8:
        raise UnsupportedError(f"weights in blocks have at most 8 bits, not {spec.dtype.name}")
    if spec.dtype.signed and not spec.symmetric:
        raise UnsupportedError(
            f"{spec.dtype.name} weights in blocks are symmetric: take u{spec.dtype.name} for "
            "zero points"
        )
    return replace(spec, matrix=view)


def _tiled_spec(
    context: Context, node: Node, index: int, tensor: Constant, asked: TensorRule
) -> QuantSpec:
    """Return what is asked of a weight on crossbar arrays; without a size, one array holds all."""
    if asked.granularity is not None:
        raise UnsupportedError(
            f"target {context.target.name} has one weight scale an array, not a "
            f"{asked.granularity}: --crossbar sets its size"
        )
    recipe = context.recipe
    size = crossbar_size(recipe.crossbar) if recipe.crossbar else (0, 0)
    view = matrix_view(node, index, tuple(tensor.shape), recipe.rows or ROWS[0])
    return replace(_spec(context, asked, "weights", tile=(1, *size)), matrix=view)


def joint_spec(specs: Sequence[QuantSpec]) -> QuantSpec:
    """Return one specification for tensors that take the same parameters.

    It is the first one with bounds wide enough for all. A range known beforehand stands only if
    all have it.
    """
    low = min(spec.bounds[0] for spec in specs)
    high = max(spec.bounds[1] for spec in specs)
    free = [spec for spec in specs if not isinstance(spec.range, Fixed)]
    base = free[0] if free else specs[0]
    if any(spec.range != base.range for spec in specs) and not free:
        base = replace(base, range=range_algorithm("minmax"))
    return replace(base, bounds=(low, high))


def _spec(
    context: Context,
    asked: TensorRule,
    kind: str,
    *,
    tile: Tile = (),
    bounds: tuple[float, float] = (-np.inf, np.inf),
    allowed: Sequence[str] | None = None,
) -> QuantSpec:
    """Fill the gaps of a rule from the target and build the specification."""
    defaults = context.target.activations if kind == "activations" else context.target.weights
    rule = asked.over(TensorRule(**defaults))
    assert rule.dtype is not None
    assert rule.range is not None
    allowed = context.target.dtypes[kind] if allowed is None else allowed
    if rule.dtype == FLOAT and kind == "activations":
        raise UnsupportedError(
            f"target {context.target.name} does not leave activations float beside its weights"
        )
    try:
        dtype = IntType.parse(rule.dtype)
        axis = channels(rule.granularity) if kind == "activations" else None
    except ValueError as error:
        raise RecipeError(f"{kind}: {error}") from error
    if rule.dtype not in allowed:
        known = ", ".join(allowed)
        alone = kind == "weights" and rule.dtype in context.target.dtypes.get("weight_only", ())
        hint = ", and beside float activations that too" if alone else ""
        raise UnsupportedError(
            f"target {context.target.name} has no {rule.dtype} {kind}; it has {known}{hint}"
        )
    if rule.symmetric is False and kind in context.target.symmetric_only:
        raise UnsupportedError(f"target {context.target.name} has symmetric {kind} only")
    algorithm = range_algorithm(rule.range, **(rule.range_options or {}))
    if kind == "activations" and axis is not None:
        _check_channels(context.target, algorithm)
    chip = context.recipe.positions == "chip"
    return QuantSpec(
        dtype=dtype,
        symmetric=bool(rule.symmetric),
        range=algorithm,
        tile=tile,
        bounds=bounds,
        power_of_two=context.target.power_of_two,
        positions=(0, dtype.bits - 1) if chip else ANY_POSITION,
    )


def _check_channels(target: Target, algorithm: RangeAlgorithm) -> None:
    """Refuse channels of activations where the target or the range algorithm cannot have them."""
    if target.one_scale:
        raise UnsupportedError(
            f"target {target.name} has no per-channel activations: {target.one_scale}"
        )
    if algorithm.needs_histogram:
        able = ", ".join(known.name for known in RANGES if not known.needs_histogram)
        raise RecipeError(
            f"range {algorithm.name!r} needs histograms, which channels of activations do not "
            f"have: use {able}, or --activation-granularity tensor"
        )
