"""Quantize one model by many recipes: what they have in common is done once.

Recipes of a search differ in what they ask of tensors. Parameters depend on what is asked of one
tensor, codes and bias of a node on the parameters of its weight and its input alone, so each is
computed when it is first asked for, and a candidate is put together from what is known already.
Models of the same structure are cast in one mould: only constants are exchanged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from onnxq import calibration
from onnxq.correction import corrected, corrected_inputs
from onnxq.drafting import Draft, draft, fit_samples
from onnxq.emit import emit
from onnxq.emit.biases import fit_biases
from onnxq.emit.constants import Place, Stored, constant_values, element_type, pair_values
from onnxq.emit.qdq import required_opset
from onnxq.errors import CalibrationError
from onnxq.feeds import Batch
from onnxq.graph import io
from onnxq.graph.edit import Names
from onnxq.graph.io import Model, Node, array_of, constant
from onnxq.graph.mould import Mould
from onnxq.graph.session import Runtime, Session
from onnxq.numerics.affine import fake_quantize
from onnxq.observing import completed
from onnxq.parameters import (
    Known,
    activation_param,
    activation_params,
    key_of,
    weight_param,
    weight_params,
)
from onnxq.plan import NodePlan, Plan, resolve
from onnxq.planning import plan_model, replanned
from onnxq.recipe import Recipe
from onnxq.repairs import corrects
from onnxq.search.means import Means
from onnxq.sources import Source
from onnxq.table import CalibrationTable
from onnxq.types import Array, QuantParams, QuantSpec, TensorStats

MOULDS = 8  # held at a time, each a copy of the model
Values = Sequence[Array]
Groups = tuple[int, ...] | None  # of samples; None for all


@dataclass(frozen=True, kw_only=True)
class Made:
    """A candidate.

    Attributes:
        plan: What became of every node and tensor.
        session: The quantized model, loaded.
        bytes: Of the file it would be, but for what metadata tells.
    """

    plan: Plan
    session: Session
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A mould and where its constants are.

    Attributes:
        mould: The model.
        places: Of quantized activations and constants.
        biases: Names of the biases that are corrected and stay float, by first output.
    """

    mould: Mould
    places: Mapping[Place, Stored]
    biases: Mapping[str, str]


class Stock:
    """A prepared model, its statistics, and what was computed of them so far.

    Attributes:
        prepared: The model, as all candidates begin.
        plan: What becomes of it by the recipe that is common to all.
        runtime: How models are run.
    """

    def __init__(
        self,
        model: Path,
        table: CalibrationTable,
        recipe: Recipe,
        runtime: Runtime,
        max_opset: int | None = None,
    ) -> None:
        """Prepare the model.

        Args:
            model: The float model.
            table: Its calibration table.
            recipe: What all candidates ask for alike: target, and what is rescaled.
            runtime: How to run models.
            max_opset: Newest operator set a candidate may need.

        Raises:
            ModelError: The model cannot be loaded, or holds nothing to quantize.
            CalibrationError: The table is of another model, or lacks a tensor.
            RecipeError: The recipe means nothing here.
            UnsupportedError: The target cannot express the recipe.
        """
        self._model, self._table, self.runtime = model, table, runtime
        self._max_opset = max_opset
        prepared, self.plan, _, self._opset = plan_model(model, recipe, table, max_opset, runtime)
        self.prepared: Model = prepared
        self._own = io.copied(prepared)  # its biases are exchanged
        self._nodes = {n.outputs[0].name: n for n in self._own.graph.nodes if n.outputs}
        self._floats = {
            output: node.inputs[2] for output, node in self._nodes.items() if len(node.inputs) > 2
        }
        self._samples: list[Batch] = fit_samples(table)
        self._tables: dict[Groups, CalibrationTable] = {None: table}
        self._known: dict[Groups, Known] = {}
        self._known_weights = Known()
        self._means = Means(self.prepared, self._samples, runtime)
        self._ways: Mapping[str, Sequence[QuantSpec]] = {}
        self._asked: set[Groups] = set()
        self._pairs: dict[tuple[str, bytes], Values] = {}
        self._codes: dict[tuple[object, ...], Values] = {}  # of weights, which most values share
        self._values: dict[tuple[object, ...], dict[Place, Values]] = {}
        self._forms: dict[object, _Form] = {}
        self._like: Draft | None = None
        self._lock = Lock()

    def rescaled(self, recipe: Recipe, source: Source | None) -> "Stock":
        """Return a stock of the same model by a recipe that rescales it.

        Args:
            recipe: The recipe.
            source: The data of the table, to observe on it what is rescaled.

        Raises:
            OnnxqError: Of any kind: the recipe does not fit.
        """
        table = self._table
        if source is not None:
            table = completed(self._model, table, recipe, source, self.runtime)
        return Stock(self._model, table, recipe, self.runtime, self._max_opset)

    def foresee(self, activations: Mapping[str, Sequence[QuantSpec]]) -> None:
        """Take note of how activations may be quantized, so that it is observed at once.

        Args:
            activations: By name.
        """
        self._ways = activations

    def reference(self) -> Session:
        """Load the float model."""
        return Session(self._model, self.runtime)

    @property
    def weights(self) -> list[str]:
        """Names of the weights that are quantized."""
        nodes = self.plan.nodes.values()
        return list(dict.fromkeys(weight.name for node in nodes for weight in node.weights))

    def asked(self, recipe: Recipe) -> Plan:
        """Plan a recipe whatever was seen of the tensors.

        Raises:
            OnnxqError: Of any kind: the recipe does not fit.
        """
        return resolve(self.prepared, self.plan.target, recipe)

    def planned(self, recipe: Recipe, groups: Groups = None) -> Plan:
        """Plan a recipe.

        Args:
            recipe: What is asked.
            groups: The groups of samples whose statistics to take; None for all.

        Raises:
            OnnxqError: Of any kind: the recipe does not fit.
        """
        return replanned(self.prepared, recipe, self._of(groups))

    def made(self, recipe: Recipe, groups: Groups = None) -> Made:
        """Quantize by a recipe and load the result.

        Args:
            recipe: What is asked.
            groups: The groups of samples whose statistics to take; None for all.

        Raises:
            OnnxqError: Of any kind: the recipe does not fit.
        """
        with self._lock:
            try:
                plan = self.planned(recipe, groups)
            except CalibrationError:  # another operator set has other tensors
                return self._drafted(recipe, groups)
            proto = self._cast(plan, groups) if self._is_plain(plan) else None
            if proto is None:
                return self._drafted(recipe, groups)
        return Made(plan=plan, session=Session(proto, self.runtime), bytes=proto.ByteSize())

    def disturbances(self, name: str, specs: Sequence[QuantSpec], *, place: Any) -> Array:
        """Return how much some ways to quantize a tensor disturb it: noise over signal.

        Args:
            name: The tensor, quantized by the recipe alone.
            specs: The ways.
            place: Of a weight: first output of its node, and index; None for an activation.
        """
        if place is None:
            values, counts, stats = self._seen(name)
            known = self._known.setdefault(None, Known())
            asked = (replace(self.plan.activations[name], spec=spec) for spec in specs)
            used = [activation_param(each, stats, known) for each in asked]
        else:
            array = array_of(self._nodes[place[0]].inputs[place[1]])
            values, counts = array.astype(np.float64), np.ones((), np.int64)
            node = self.plan.nodes[place[0]]
            weight = next(each for each in node.weights if each.index == place[1])
            plans = (replace(weight, spec=spec) for spec in specs)
            used = [weight_param(each, array, self._known_weights) for each in plans]
        noise = (np.square(fake_quantize(values, params) - values) for params in used)
        power = float((counts * np.square(values)).sum())
        found = np.array([float((counts * each).sum()) for each in noise])
        return found / power if power else np.zeros(len(found))

    def _seen(self, name: str) -> tuple[Array, Array, TensorStats]:
        """Return what was seen of an activation: values, how often, and all."""
        stats = calibration.statistics(self._table, self.prepared, self.plan)[name]
        values, counts = stats.histograms[0].points()
        return values, counts, stats

    def _of(self, groups: Groups) -> CalibrationTable:
        """Return the table of some groups of samples."""
        if groups not in self._tables:
            self._tables[groups] = self._table.only(groups or ())
        return self._tables[groups]

    def _is_plain(self, plan: Plan) -> bool:
        """Say whether a model has this operator set, and nothing is fitted but means."""
        recipe = plan.recipe
        fits = recipe.reconstruct or recipe.fit_ranges or recipe.tile_scales == "cosine"
        moves = recipe.reorder not in (None, "none") or recipe.bias_correction == "empirical"
        needed = max(required_opset(plan)[0], self._opset)
        return not (fits or moves) and plan.qdq and needed == self.prepared.opset

    def _drafted(self, recipe: Recipe, groups: Groups) -> Made:
        """Quantize by a recipe as `onnxq.pipeline.quantize` does."""
        made = draft(
            *(self._model, self._of(groups), recipe),
            max_opset=self._max_opset,
            like=self._like,
            runtime=self.runtime,
        )
        self._like = self._like or made
        model = io.copied(made.prepared)
        emit(model, made.plan, made.activations, made.weights)
        session = Session(model, self.runtime)
        return Made(plan=made.plan, session=session, bytes=io.sync(model).ByteSize())

    def _cast(self, plan: Plan, groups: Groups) -> Any:
        """Return the model of a plan; None if nodes that share a constant want it differently."""
        seen = calibration.statistics(self._of(groups), self.prepared, plan)
        activations = activation_params(plan, seen, self._known.setdefault(groups, Known()))
        weights = weight_params(plan, self._own, self._known_weights)
        corrections = corrects(plan) and bool(self._samples)
        means = (
            self._means.of(
                corrected_inputs(self.prepared, plan, activations),
                activations,
                lambda name: self._foreseen(plan, name, seen, groups),
            )
            if corrections
            else {}
        )
        self._asked.add(groups)
        values = {
            node.output: self._node_values(plan, node, activations, weights, means)
            for node in plan.nodes.values()
            if node.quantized
        }
        key = _structure(plan, tuple(means))
        form = self._forms.pop(key, None) or self._form(plan, activations, weights, means)
        self._forms[key] = form  # the one used last comes last
        if len(self._forms) > MOULDS:
            del self._forms[next(iter(self._forms))]
        found: dict[str, Array] = {}
        for name, value in self._constants(plan, form, activations, values):
            before = found.setdefault(name, value)
            if before is not value and not np.array_equal(before, value):
                return None
        return form.mould.cast(found)

    def _constants(
        self,
        plan: Plan,
        form: _Form,
        activations: Mapping[str, QuantParams],
        values: Mapping[str, Mapping[Place, Values]],
    ) -> Iterator[tuple[str, Array]]:
        """Yield all constants by name."""
        packed = plan.target.packs()
        for name, params in activations.items():
            if name in form.places:
                stored = form.places[name]
                key = stored.rounding, key_of(params)
                if key not in self._pairs:
                    self._pairs[key] = pair_values(params, stored.rounding, packed=packed)
                yield from zip(stored.names, self._pairs[key], strict=True)
        for output, by_place in values.items():
            for place, arrays in by_place.items():
                names = form.places[place].names if place in form.places else ()
                yield from zip(names or (form.biases[output],), arrays, strict=True)

    def _foreseen(
        self, plan: Plan, name: str, seen: Mapping[str, TensorStats], groups: Groups
    ) -> Iterator[QuantParams]:
        """Yield the parameters that are foreseen for an activation, but for the first strategy."""
        if name in plan.activations and groups in self._asked:
            leader = plan.activations[plan.activations[name].shares]
            for spec in self._ways.get(leader.name, ()):
                asked = replace(leader, spec=spec)
                yield activation_param(asked, seen[leader.name], self._known[groups])

    def _node_values(
        self,
        plan: Plan,
        node: NodePlan,
        activations: Mapping[str, QuantParams],
        weights: Mapping[tuple[str, int], QuantParams],
        means: Mapping[str, tuple[Array, Array]],
    ) -> dict[Place, Values]:
        """Return codes and parameters of the constants of a node."""
        own = {(node.output, w.index): weights[node.output, w.index] for w in node.weights}
        gs_node = self._nodes[node.output]
        read = activations.get(gs_node.inputs[0].name) if gs_node.inputs else None
        mean = means.get(node.output)
        key = (
            *(node.output, node.bias, mean is not None),
            *(key_of(params) for params in own.values()),
            b"" if read is None else key_of(read),
        )
        if key not in self._values:
            self._values[key] = self._fresh(plan, node, activations, own, mean)
        return self._values[key]

    def _fresh(
        self,
        plan: Plan,
        node: NodePlan,
        activations: Mapping[str, QuantParams],
        weights: Mapping[tuple[str, int], QuantParams],
        mean: tuple[Array, Array] | None,
    ) -> dict[Place, Values]:
        """Compute codes and parameters of the constants of a node."""
        gs_node = self._nodes[node.output]
        found: dict[Place, Values] = {}
        bias = self._floats.get(node.output)
        if mean is not None:
            moved = self._moved(gs_node, weights[node.output, 1], mean)
            gs_node.inputs[2] = constant(f"{node.output}_bias", moved)
            found[node.output, 2] = [moved]
        fitted = fit_biases(
            self._own, replace(plan, nodes={node.output: node}), activations, weights
        )
        packed = plan.target.packs(alone=node.weight_only)
        for place in weights:
            found[place] = self._coded(gs_node, place, fitted.weights[place], packed=packed)
        if node.bias is not None:
            array = array_of(gs_node.inputs[node.bias])
            params = fitted.biases[node.output]
            found[node.output, node.bias] = constant_values(array, params, packed=packed)
        if mean is not None:
            gs_node.inputs[2] = bias
        return found

    def _coded(
        self, node: Node, place: tuple[str, int], params: QuantParams, *, packed: bool
    ) -> Values:
        """Return the codes of a weight; they are large, and the same whatever its node reads."""
        key = place, packed, key_of(params)
        if key not in self._codes:
            array = array_of(node.inputs[place[1]])
            self._codes[key] = constant_values(array, params, packed=packed)
        return self._codes[key]

    def _moved(self, node: Node, params: QuantParams, mean: tuple[Array, Array]) -> Array:
        """Return the bias of a node that takes up its mean error."""
        weight, bias = array_of(node.inputs[1]), array_of(self._floats[node.outputs[0].name])
        return corrected(node, bias, weight, fake_quantize(weight, params), mean)

    def _form(
        self,
        plan: Plan,
        activations: Mapping[str, QuantParams],
        weights: Mapping[tuple[str, int], QuantParams],
        means: Mapping[str, tuple[Array, Array]],
    ) -> _Form:
        """Emit a model, each corrected bias a constant of its own."""
        model = io.copied(self.prepared)
        names, biases = Names(model), dict[str, str]()
        for node in model.graph.nodes:
            output = node.outputs[0].name if node.outputs else ""
            if output in means:
                bias = node.inputs[2]
                biases[output] = names.new(f"{bias.name}_corrected")
                node.inputs[2] = constant(biases[output], array_of(bias))
        done = emit(model, plan, activations, weights)
        return _Form(
            mould=Mould(io.sync(model), model.path.parent), places=done.places, biases=biases
        )


def _structure(plan: Plan, corrected_: tuple[str, ...]) -> object:
    """Return what models that differ in nothing but constants have in common."""
    nodes = tuple(
        (n.output, n.bias, n.weight_only, tuple(_kept(plan, n)))
        for n in plan.nodes.values()
        if n.quantized
    )
    activations = tuple(
        (a.name, a.written, a.carried, a.spec.dtype, a.spec.tile) for a in plan.activations.values()
    )
    return nodes, activations, corrected_


def _kept(plan: Plan, node: NodePlan) -> Iterator[tuple[object, ...]]:
    """Yield how the weights of a node are kept."""
    packed = plan.target.packs(alone=node.weight_only)
    for weight in node.weights:
        spec = weight.spec
        yield weight.index, spec.tile, spec.matrix, element_type(spec.dtype, packed=packed).name
