"""Which choices a model, a recipe and a target leave, to be searched.

An option is there only if, laid under the recipe, it changes what is asked of the tensor.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any

from onnxq.errors import OnnxqError, UsageError
from onnxq.graph.io import Constant, Model
from onnxq.numerics.tiles import grid
from onnxq.plan import NodePlan, Plan, resolve
from onnxq.ranges.fixed import Fixed
from onnxq.ranges.given import Given
from onnxq.recipe import Recipe, TensorRule
from onnxq.search.space import FACTORS, GRANULARITY, Gene, Option, Space
from onnxq.search.trials import absorbed_by
from onnxq.types import IntType, QuantSpec, RangeAlgorithm

MOST = 36  # options of a gene: its code has one digit
ALL_SUBSETS = 4  # groups up to which every set of them is an option
WIDTHS = range(2, 9)  # bits of weights
Choice = tuple[str, dict[str, Any]]
RANGES: tuple[Choice, ...] = (
    ("mse", {}),
    ("minmax", {}),
    ("percentile", {"percentile": 99.9}),
    ("percentile", {"percentile": 99.99}),
    ("percentile", {"percentile": 99.999}),
    ("outlier-var", {}),
    ("entropy", {}),
)
WEIGHT_RANGES: tuple[Choice, ...] = (
    ("mse", {}),
    ("minmax", {}),
    ("percentile", {"percentile": 98.0}),
    ("percentile", {"percentile": 99.5}),
    ("outlier-var", {}),
)
POWERS: tuple[Choice, ...] = (("mse", {}), ("minmax", {}), ("adaptive-kl", {}), ("plain-kl", {}))


def space_of(
    model: Model, plan: Plan, base: Recipe, factors: Iterable[str], groups: Sequence[int] = ()
) -> Space:
    """Return what may be chosen for a model.

    Args:
        model: The prepared model.
        plan: What becomes of it by the recipe alone.
        base: The recipe.
        factors: What to open, of `FACTORS`.
        groups: The groups of samples that the calibration table has.

    Raises:
        UsageError: A factor is none, or nothing is left to choose.
    """
    opened = tuple(each for each in FACTORS if each in set(factors))
    if unknown := set(factors) - set(FACTORS):
        raise UsageError(f"no factor {min(unknown)!r}: there are {', '.join(FACTORS)}")
    making = _Making(model, plan, base, opened)
    weights = list(making.weights())
    genes = [
        *making.samples(groups),
        *making.whole(),
        *making.activations(),
        *(gene for gene in weights if len(gene.options) > 1),
        *making.nodes(),
    ]
    if not genes:
        raise UsageError("the recipe leaves nothing to choose: search needs something open")
    absorbed = {
        gene.name: each
        for gene in genes
        if gene.kind == "node"
        for each in absorbed_by(model, plan, gene.name)
    }
    return Space(
        genes=tuple(genes),
        base=base,
        factors=opened,
        target=plan.target.name,
        model_sha256=model.sha256,
        absorbed=absorbed,
        fixed=tuple(gene for gene in weights if len(gene.options) == 1),
    )


def spelled(algorithm: RangeAlgorithm) -> str:
    """Return a range algorithm as people read it: its name and what it is set to.

    A single option is told always, several only where they are no default.
    """
    alone = [f.name for f in fields(algorithm)]  # type: ignore[arg-type]
    told = _options_of(algorithm).values()
    values = [getattr(algorithm, alone[0])] if len(alone) == 1 else told
    return " ".join([algorithm.name, *map(str, values)])


def _options_of(algorithm: RangeAlgorithm) -> dict[str, Any]:
    """Return the options of a range algorithm that are no default."""
    both = {f.name: (getattr(algorithm, f.name), f.default) for f in fields(algorithm)}  # type: ignore[arg-type]
    return {name: value for name, (value, default) in both.items() if value != default}


@dataclass(frozen=True)
class _Making:
    """A space in the making."""

    model: Model
    plan: Plan
    base: Recipe
    factors: tuple[str, ...]

    def samples(self, groups: Sequence[int]) -> Iterator[Gene]:
        """Yield the choice of samples."""
        count = len(groups)
        if "samples" not in self.factors or count < 2:
            return
        sizes = range(count - 1, 0, -1) if count <= ALL_SUBSETS else (count - 1, 1)
        subsets = [each for size in sizes for each in combinations(groups, size)]
        options = [Option(label="all")]
        options += [
            Option(label=f"groups {','.join(map(str, each))}", groups=each)
            for each in subsets[: MOST - 1]
        ]
        yield Gene(name="samples", kind="all", reason="", options=tuple(options))

    def whole(self) -> Iterator[Gene]:
        """Yield the choices that are made once."""
        if "symmetric" in self.factors:
            both = {not_: TensorRule(symmetric=not_) for not_ in (False, True)}
            asked = {f"symmetric {v}".lower(): Recipe(activations=r) for v, r in both.items()}
            yield from self._all("activations.symmetric", asked)
        yield from self._granularity()
        if "repairs" not in self.factors:
            return
        nodes = [node for node in self.plan.nodes.values() if node.quantized]
        base = self.base
        if base.correct_bias is None and base.bias_correction is None and self._has_bias(nodes):
            now = self.plan.target.correct_bias
            options = [Option(label=f"{now}".lower())]
            options += [Option(label=f"{not now}".lower(), recipe=Recipe(correct_bias=not now))]
            yield Gene(name="correct_bias", kind="all", reason="", options=tuple(options))
        if base.equalize is None and base.smooth is None and not self.plan.target.tiled:
            options = [Option(label="none")]
            options += [Option(label="equalize", recipe=Recipe(equalize=True))]
            if self.plan.activations and any(node.op in ("MatMul", "Gemm") for node in nodes):
                options += [
                    Option(label=f"smooth {a}", recipe=Recipe(smooth=a, smooth_insert=True))
                    for a in (0.5, 0.75)
                ]
            yield Gene(name="rescale", kind="all", reason="", options=tuple(options))

    def _granularity(self) -> Iterator[Gene]:
        """Yield the choice of how far the scales of weights reach."""
        if "granularity" in self.factors:
            tiles = {g: Recipe(weights=TensorRule(granularity=g)) for g in ("tensor", "channel")}
            yield from self._all(GRANULARITY, tiles)

    def _has_bias(self, nodes: Sequence[NodePlan]) -> bool:
        """Say whether there is a bias that can take up the mean error of its layer."""
        biased = {n.outputs[0].name for n in self.model.graph.nodes if len(n.inputs) > 2}
        return any(n.output in biased and n.op in ("Conv", "Gemm") for n in nodes)

    def _all(self, name: str, asked: Mapping[str, Recipe]) -> Iterator[Gene]:
        """Yield a choice about the whole model: what the recipe gives, and what changes it."""
        options = [Option(label="as the recipe says")]
        for said, recipe in asked.items():
            plan = self._planned(recipe)
            if plan is not None and self._specs(plan) != self._specs(self.plan):
                options.append(Option(label=said, recipe=recipe))
        if len(options) > 1:
            yield Gene(name=name, kind="all", reason="", options=tuple(options))

    def _planned(self, recipe: Recipe) -> Plan | None:
        """Plan a recipe laid under the base; None where the target cannot have it."""
        try:
            return resolve(self.model, self.plan.target, self.base.over(recipe))
        except OnnxqError:
            return None

    @staticmethod
    def _specs(plan: Plan) -> dict[object, QuantSpec]:
        """Return what is asked of all tensors."""
        found: dict[object, QuantSpec] = {n: each.spec for n, each in plan.activations.items()}
        for output, node in plan.nodes.items():
            found |= {(output, weight.index): weight.spec for weight in node.weights}
        return found

    def activations(self) -> Iterator[Gene]:
        """Yield a choice an activation."""
        specs = self._asked("activations")
        for name, each in self.plan.activations.items():
            if each.shares == name and not isinstance(each.spec.range, (Fixed, Given)):
                options = list(self._options(each.spec, specs, name))
                if len(options) > 1:
                    reason = each.reason.split(";")[0]
                    yield Gene(name=name, kind="activation", reason=reason, options=tuple(options))

    def weights(self) -> Iterator[Gene]:
        """Yield a choice a weight; of one option, where the recipe says it all."""
        specs = self._asked("weights")
        tensors = self.model.graph.tensors()
        seen = set()
        for output, node in self.plan.nodes.items():
            for weight in node.weights:
                if weight.name in seen or self.plan.target.ops[node.op].role != "compute":
                    continue
                seen.add(weight.name)
                place, tensor = (output, weight.index), tensors[weight.name]
                given = isinstance(weight.spec.range, Given)
                options = self._options(weight.spec, () if given else specs, place)
                yield Gene(
                    name=weight.name,
                    kind="weight",
                    reason=f"of {node.label}",
                    options=tuple(self._weighed(option, place, tensor) for option in options),
                    place=place,
                    elements=math.prod(tensor.shape),
                )

    def _weighed(self, option: Option, place: tuple[str, int], weight: Constant) -> Option:
        """Return an option of a weight with what it takes."""
        assert option.spec is not None
        spec = option.spec
        others = [grain.get(place, spec) for grain in self._grains]
        regrained = [replace(spec, tile=other.tile, matrix=other.matrix) for other in others]
        return replace(
            option,
            bits=_bits(spec, weight),
            regrained=tuple(_bits(each, weight) for each in regrained),
        )

    @cached_property
    def _grains(self) -> list[dict[object, QuantSpec]]:
        """What the second option of the granularity of weights, and each further, makes of all."""
        asked = [option.recipe for gene in self._granularity() for option in gene.options[1:]]
        plans = map(self._planned, asked)
        return [self._specs(plan) for plan in plans if plan is not None]

    def nodes(self) -> Iterator[Gene]:
        """Yield whether to keep a node float, for those worth quantizing by themselves."""
        if "float" not in self.factors:
            return
        target = self.plan.target
        for output, node in self.plan.nodes.items():
            rule = target.ops.get(node.op)
            if node.quantized and rule is not None and rule.role == "compute":
                options = (Option(label="integers"), Option(label="float", lifts=True))
                place = output, 1
                yield Gene(
                    name=node.label, kind="node", reason=node.op, options=options, place=place
                )

    def _rules(self, kind: str) -> list[TensorRule]:
        """Return what may be asked of a kind of tensor."""
        ranges: list[tuple[str | None, dict[str, Any]]] = [(None, {})]
        if "ranges" in self.factors:
            plain = WEIGHT_RANGES if kind == "weights" else RANGES
            ranges += POWERS if self.plan.target.power_of_two else plain
        widths: list[str | None] = [None]
        if "widths" in self.factors:
            widths += self._widths(kind)
        return [
            TensorRule(dtype=dtype, range=name, range_options=options or None)
            for dtype, (name, options) in product(widths, ranges)
        ]

    def _widths(self, kind: str) -> list[str]:
        """Return the element types there are for a kind of tensor."""
        target = self.plan.target
        known = list(target.dtypes[kind])
        if kind == "weights" and any(n.weight_only for n in self.plan.nodes.values()):
            known = [each for each in known if each in target.dtypes.get("weight_only", known)]
        default = IntType.parse(
            {"weights": target.weights, "activations": target.activations}[kind]["dtype"]
        )
        wanted = WIDTHS if kind == "weights" else (8, 16)
        types = [IntType.parse(each) for each in known]
        return [t.name for t in types if t.signed == default.signed and t.bits in wanted]

    def _asked(self, kind: str) -> list[dict[object, QuantSpec]]:
        """Return what each thing that may be asked of a kind of tensor makes of all of them."""
        rules = self._rules(kind)
        asked = [
            Recipe(weights=rule) if kind == "weights" else Recipe(activations=rule)
            for rule in rules
        ]
        plans = (self._planned(recipe) for recipe in asked)
        return [self._specs(plan) for plan in plans if plan is not None]

    def _options(
        self, now: QuantSpec, specs: Sequence[Mapping[object, QuantSpec]], key: object
    ) -> Iterator[Option]:
        """Yield what a tensor may be asked for, first what the recipe asks."""
        different = {repr(each): each for each in [now, *(by.get(key, now) for by in specs)]}
        for spec in list(different.values())[:MOST]:
            yield Option(label=self._label(spec), rule=self._rule(spec), spec=spec)

    def _label(self, spec: QuantSpec) -> str:
        """Say how a tensor is quantized, as far as it is open."""
        width = [spec.dtype.name] if "widths" in self.factors else []
        return ", ".join([*width, spelled(spec.range)])

    def _rule(self, spec: QuantSpec) -> TensorRule:
        """Return the rule that asks for what is open."""
        width = spec.dtype.name if "widths" in self.factors else None
        if "ranges" not in self.factors:
            return TensorRule(dtype=width)
        options = _options_of(spec.range)
        return TensorRule(dtype=width, range=spec.range.name, range_options=options or None)


def _bits(spec: QuantSpec, weight: Constant) -> int:
    """Return what a weight takes, its scales included."""
    shape = tuple(weight.shape)
    scales = 1
    if spec.matrix is not None:
        groups, rows, columns = spec.matrix.shape
        scales = math.prod(grid((groups, rows, columns), spec.tile)) if spec.tile else groups
    elif spec.tile:
        scales = math.prod(grid(shape, spec.tile))
    each = 32 if spec.symmetric else 32 + spec.dtype.bits
    found: int = math.prod(shape) * spec.dtype.bits + scales * each
    return found
