"""Models for tests: graphs in ONNX text, seeded weights, and onnxruntime to run them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from onnxq.emit import emit
from onnxq.emit.qdq import Emitted, required_opset
from onnxq.graph.io import from_proto, sync
from onnxq.graph.opset import raise_opset
from onnxq.numerics.affine import params_of
from onnxq.numerics.extremes import extremes
from onnxq.numerics.histogram import merge
from onnxq.parameters import weight_params
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, WeightPlan, resolve
from onnxq.recipe import Recipe
from onnxq.targets import Target, Worth, target
from onnxq.types import Array, QuantParams

Weights = Mapping[str, tuple[int, ...] | Array]
Feed = dict[str, Array]

SIZE = 8  # what an open axis of an input becomes, unless it is the first: that becomes ROWS
ROWS = 2


def eager(name: str = "cpu") -> Target:
    """Return a target that quantizes narrow layers too, with ranges that need no histogram."""
    shipped = target(name)
    plain = {"range": "minmax"}
    return replace(
        shipped,
        worth=Worth(),
        activations={**shipped.activations, **plain},
        weights={**shipped.weights, **plain},
    )


def sized(recipe: Recipe, on: str, size: str = "8x3") -> Recipe:
    """Give arrays a size where the target has some and the recipe has none."""
    return recipe.over(Recipe(crossbar=size)) if target(on).tiled else recipe


def build(
    text: str, weights: Weights | None = None, *, opset: int = 13, ir: int = 8, seed: int = 0
) -> onnx.ModelProto:
    """Parse a graph and give it initializers; what is given as a shape is drawn from the seed.

    Both versions are pinned: onnx's own defaults are newer than what onnxruntime loads. Outputs
    written without a type get the one that is inferred.
    """
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.test" : 1]>\n'
    proto = onnx.parser.parse_model(header + text)
    rng = np.random.default_rng(seed)
    for name, given in (weights or {}).items():
        value = given if isinstance(given, np.ndarray) else normal(rng, given)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    if ir < 4:
        for tensor in proto.graph.initializer:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(value)
    if not any(node.domain == "com.test" for node in proto.graph.node):
        del proto.opset_import[1:]
    if any(not value.HasField("type") for value in proto.graph.output):
        found = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output
        for value, typed in zip(proto.graph.output, found, strict=True):
            value.CopyFrom(typed)
    onnx.checker.check_model(proto)
    return proto


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw float32 weights of about the size a trained layer has."""
    fan_in = max(int(np.prod(shape[1:])), 1)
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def batchnorm(channels: int, seed: int = 0, prefix: str = "") -> dict[str, Array]:
    """Draw scale, bias, mean and variance of a BatchNormalization: g, b, m, v."""
    rng = np.random.default_rng(seed)
    values = {
        "g": rng.uniform(0.5, 2, channels),
        "b": rng.normal(size=channels),
        "m": rng.normal(size=channels),
        "v": rng.uniform(0.2, 3, channels),
    }
    return {prefix + key: value.astype(np.float32) for key, value in values.items()}


def feed_for(proto: onnx.ModelProto, seed: int = 1) -> Feed:
    """Draw values for every input that has none of its own."""
    rng = np.random.default_rng(seed)
    held = {tensor.name for tensor in proto.graph.initializer}
    feed = {}
    for value in proto.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        dims = [d.dim_value or (SIZE if axis else ROWS) for axis, d in enumerate(kind.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            feed[value.name] = rng.normal(size=dims).astype(dtype)
        else:
            feed[value.name] = rng.integers(0, 2, dims).astype(dtype)
    return feed


def session(
    source: onnx.ModelProto | Path, *, optimize: bool = True, save: Path | None = None
) -> ort.InferenceSession:
    """Load a model in onnxruntime itself, at ORT_DISABLE_ALL or at the default level."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    loadable = str(source) if isinstance(source, Path) else source.SerializeToString()
    return ort.InferenceSession(loadable, options, providers=["CPUExecutionProvider"])


def run(
    proto: onnx.ModelProto,
    feed: Feed | None = None,
    *,
    optimize: bool = False,
    names: Sequence[str] | None = None,
) -> list[Array]:
    """Run a model; ``names`` asks for tensors inside of it."""
    if names:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(proto)
        del exposed.graph.output[:]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        proto = exposed
    found: list[Array] = session(proto, optimize=optimize).run(None, feed or feed_for(proto))
    return found


def assert_same_function(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Compare all outputs of two models within 1e-5 of the largest value."""
    feed = feed_for(before)
    outputs = [[value.name for value in proto.graph.output] for proto in (before, after)]
    assert outputs[0] == outputs[1]
    for a, b in zip(run(before, feed), run(after, feed), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(float(np.abs(a).max()), 1e-3))


def copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a message."""
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    return other


def ops(proto: onnx.ModelProto) -> list[str]:
    """Return the operator types of the main graph in order."""
    return [node.op_type for node in proto.graph.node]


def initializers(proto: onnx.ModelProto) -> dict[str, Array]:
    """Return the initializers of the main graph."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def plan_of(proto: onnx.ModelProto, recipe: Recipe | None = None) -> Plan:
    """Resolve a plan on a copy, without structural passes, for the cpu target."""
    return resolve(from_proto(copy(proto)), eager(), recipe or Recipe())


@dataclass(frozen=True, kw_only=True)
class Result:
    """A model and what quantizing made of it.

    Attributes:
        original: The float model.
        model: The emitted model.
        plan: Its plan.
        emitted: What the emitter reports.
        activations: The parameters used, by tensor.
        feed: What it was calibrated on.
    """

    original: onnx.ModelProto
    model: onnx.ModelProto
    plan: Plan
    emitted: Emitted
    activations: Mapping[str, QuantParams]
    feed: Feed


def quantized(
    proto: onnx.ModelProto,
    recipe: Recipe | None = None,
    *,
    feed: Feed | None = None,
    on: str = "cpu",
    change: Callable[[Plan], Plan] = lambda plan: plan,
) -> Result:
    """Quantize a copy of a model for a target, calibrated by plain extremes.

    Args:
        proto: The float model.
        recipe: What is asked.
        feed: What to calibrate on.
        on: The target.
        change: What becomes of the plan before weights are looked at.
    """
    feed = feed or feed_for(proto)
    recipe = sized(recipe or Recipe(), on)
    model = from_proto(copy(proto))
    prepare(model)
    plan = resolve(model, eager(on), recipe)
    needed, _ = required_opset(plan)
    if model.opset < needed:
        model = raise_opset(model, needed)
        plan = resolve(model, eager(on), recipe)
    plan = change(plan)
    activations = _activation_params(plan, sync(model), feed)
    emitted = emit(model, plan, activations, weight_params(plan, model))
    return Result(
        original=proto,
        model=sync(model),
        plan=plan,
        emitted=emitted,
        activations=activations,
        feed=feed,
    )


def shuffled(plan: Plan, *, rows: bool = True, columns: bool = True, seed: int = 3) -> Plan:
    """Store the rows and columns of every layer on arrays in an order drawn from the seed."""
    rng = np.random.default_rng(seed)

    def weight(each: WeightPlan) -> WeightPlan:
        assert each.spec.matrix is not None
        groups, inputs, outputs = each.spec.matrix.shape
        flat = np.concatenate([g * outputs + rng.permutation(outputs) for g in range(groups)])
        view = replace(
            each.spec.matrix,
            row_order=tuple(rng.permutation(inputs).tolist()) if rows else (),
            column_order=tuple(flat.tolist()) if columns else (),
        )
        return replace(each, spec=replace(each.spec, matrix=view))

    nodes = {
        key: replace(node, weights=tuple(weight(each) for each in node.weights))
        for key, node in plan.nodes.items()
    }
    return replace(plan, nodes=nodes)


def _activation_params(plan: Plan, proto: onnx.ModelProto, feed: Feed) -> dict[str, QuantParams]:
    inside = [name for name in plan.observed if name not in feed]
    seen = dict(feed)
    if inside:
        seen.update(zip(inside, run(proto, feed, names=inside), strict=True))
    own = {
        name: extremes(
            next(seen[source] for source in activation.sources if source in seen),
            activation.spec.tile,
        )
        for name, activation in plan.activations.items()
    }
    chosen: dict[str, QuantParams] = {}
    for name, activation in plan.activations.items():
        spec = activation.spec
        if activation.shares != name:
            chosen[name] = chosen[activation.shares]
            continue
        stats = reduce(merge, (own[member] for member in (name, *activation.group)))
        interval = spec.range(stats, spec).within(*spec.bounds)
        chosen[name] = params_of(interval, spec)
    return chosen


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of two tensors seen as vectors."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))
