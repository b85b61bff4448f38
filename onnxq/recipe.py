"""Recipes: everything that can be asked, as one value that is read, merged and written.

A recipe is YAML or JSON. Command line flags make a recipe too, and are laid over the file's::

    target: cpu
    weights: {range: mse}
    activations: {range: percentile, range_options: {percentile: 99.99}}
    rules:
      - {name: "^/head/", quantize: false}
      - {op: MatMul, activations: {symmetric: true}}
    tensors:
      "/head/Add_output_0": {range: given, range_options: {lo: -4, hi: 4}}

What is asked of a tensor by its name comes first. Then, for each node, the first rule that
matches decides; what it leaves open comes from the recipe's own ``activations`` and ``weights``,
then from the target.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from onnxq.errors import RecipeError, UnknownNameError

POSITIONS = ("any", "chip")
ROUNDINGS = ("half-even", "half-up", "floor")
ROWS = ("channel", "kernel")
TILE_SCALES = ("range", "cosine")
REORDERS = ("none", "sort", "cluster", "random")
REORDER_MODES = ("joint", "independent")
BIAS_CORRECTIONS = ("analytic", "empirical")
FLOAT = "float"  # what activations are asked to be that stay float
_SINGLE = (  # keys with a single value
    "target", "correct_bias", "positions", "rounding", "qdq", "crossbar", "rows",
    "tile_scales", "reorder", "reorder_mode", "fit_ranges", "bias_correction",
    "reconstruct", "fuse_blocks",
    "tile_scales", "reorder", "reorder_mode", "equalize", "equalize_clips",
    "smooth", "smooth_insert",
)  # fmt: skip
_WORDS = {
    "positions": POSITIONS, "rounding": ROUNDINGS, "rows": ROWS, "tile_scales": TILE_SCALES,
    "reorder_mode": REORDER_MODES, "bias_correction": BIAS_CORRECTIONS,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """What is asked of a kind of tensor; None leaves it to the next in line.

    Attributes:
        dtype: Integer type, e.g. ``uint8``; ``float`` leaves activations as they are.
        symmetric: Zero point fixed, or free.
        granularity: ``tensor`` or ``channel``; for activations also ``channel:AXIS``, for weights
            ``block:N``, N inputs of an output.
        range: Name of a range algorithm.
        range_options: Its options.
    """

    dtype: str | None = None
    symmetric: bool | None = None
    granularity: str | None = None
    range: str | None = None
    range_options: Mapping[str, Any] | None = None

    def over(self, other: "TensorRule") -> "TensorRule":
        """Return this rule with its gaps filled from another."""
        merged = {**_given(other), **_given(self)}
        if self.range is not None and self.range_options is None:
            merged.pop("range_options", None)  # the options of another algorithm
        return TensorRule(**merged)


@dataclass(frozen=True, kw_only=True)
class NodeRule:
    """What is asked of the nodes it matches.

    Attributes:
        name: Regular expression searched for in the node's name.
        op: Operator type.
        quantize: False keeps the nodes float.
        activations: For the activations the nodes read and write.
        weights: For their weights.
    """

    name: str | None = None
    op: str | None = None
    quantize: bool = True
    activations: TensorRule = field(default_factory=TensorRule)
    weights: TensorRule = field(default_factory=TensorRule)

    def __post_init__(self) -> None:
        """Refuse a rule that says nothing about which nodes, and broken expressions.

        Raises:
            ValueError: Neither name nor op is given, or the name is no regular expression.
        """
        if self.name is None and self.op is None:
            raise ValueError("a rule needs a name or an op to match")
        try:
            re.compile(self.name or "")
        except re.error as error:
            raise ValueError(f"{self.name!r} is no regular expression: {error}") from error

    def matches(self, name: str, op: str) -> bool:
        """Say whether the rule is for a node."""
        fits = self.op is None or self.op == op
        return fits and (self.name is None or re.search(self.name, name) is not None)

    def __str__(self) -> str:
        """Return what it matches, for messages."""
        return ", ".join(f"{k} {v!r}" for k, v in (("name", self.name), ("op", self.op)) if v)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that can be asked.

    Attributes:
        target: Name of a target or path of a target file.
        activations: Defaults for activations.
        weights: Defaults for weights.
        rules: Exceptions, the first match wins.
        tensors: Exceptions for single activations and weights, by the name of the tensor.
        correct_bias: Let biases take up the mean error of their layer; None: the target says,
            or ``bias_correction`` does by being there.
        bias_correction: How: ``analytic``, from the means of what the layer reads in the float
            model; or ``empirical``, measured at its output in the quantized model.
        fit_ranges: Move the ranges of activations to the least error at the output of the layers
            that read them.
        reconstruct: Round weights for the least error of what their layer writes, instead of to
            the nearest codes.
        fuse_blocks: Write the blocks of MatMul weights beside float activations so that
            onnxruntime computes with them as they are (MatMulNBits), less exactly.
        positions: For powers of two: ``any``, or ``chip`` for 0 … bits − 1 only.
        rounding: For powers of two: how the chip rounds what it shifts, ``half-even``,
            ``half-up`` or ``floor``.
        qdq: For powers of two: False keeps the graph float, weights and biases on their grids.
        crossbar: For scales a tile: the size of the arrays, inputs × outputs, e.g. ``128x64``.
        rows: For scales a tile: how the weights of a convolution are numbered along an array's
            rows, ``channel`` by input channel first, or ``kernel`` by place in the kernel first.
        tile_scales: For scales a tile: ``range``, what the range algorithm says of its weights;
            or ``cosine``, moved from there to the best cosine of the layer's output.
        reorder: For weights on tiles or in blocks: the order of the channels, ``none``, ``sort``,
            ``cluster``, ``random:SEED``, or a file with an order.
        reorder_mode: ``joint`` moves the channels of the model; ``independent`` rows and columns
            of each layer, which the file then gathers back.
        equalize: Scale channels between layers so that one scale a weight serves them all.
        equalize_clips: Also channels that a Clip cuts, by a Min with an end a channel in its place.
        smooth: Move outlier channels of what matrices multiply into these: how far, 0 … 1.
        smooth_insert: Also where only a Mul of its own can divide what they multiply.
    """

    target: str | None = None
    activations: TensorRule = field(default_factory=TensorRule)
    weights: TensorRule = field(default_factory=TensorRule)
    rules: tuple[NodeRule, ...] = ()
    tensors: Mapping[str, TensorRule] = field(default_factory=dict)
    correct_bias: bool | None = None
    bias_correction: str | None = None
    fit_ranges: bool | None = None
    reconstruct: bool | None = None
    fuse_blocks: bool | None = None
    positions: str | None = None
    rounding: str | None = None
    qdq: bool | None = None
    crossbar: str | None = None
    rows: str | None = None
    tile_scales: str | None = None
    reorder: str | None = None
    reorder_mode: str | None = None
    equalize: bool | None = None
    equalize_clips: bool | None = None
    smooth: float | None = None
    smooth_insert: bool | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            UnknownNameError: A word is none of those listed.
            RecipeError: The crossbar is no size, or smooth not within 0 … 1.
        """
        for key, words in _WORDS.items():
            value = getattr(self, key)
            if value is not None and value not in words:
                raise UnknownNameError(key, value, words)
        order_file(self.reorder)
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise RecipeError(f"smooth is within 0 … 1, not {self.smooth}")
        if self.crossbar is not None:
            try:
                crossbar_size(self.crossbar)
            except ValueError as error:
                raise RecipeError(str(error)) from error

    def over(self, other: "Recipe") -> "Recipe":
        """Return this recipe with its gaps filled from another; its rules come first."""
        return Recipe(
            **{key: _first(getattr(self, key), getattr(other, key)) for key in _SINGLE},
            activations=self.activations.over(other.activations),
            weights=self.weights.over(other.weights),
            rules=self.rules + other.rules,
            tensors={
                name: self.named(name).over(other.named(name))
                for name in dict.fromkeys([*self.tensors, *other.tensors])
            },
        )

    @property
    def rescales(self) -> bool:
        """Whether it asks for a pass that rescales channels."""
        return bool(self.equalize) or self.smooth is not None

    def named(self, tensor: str) -> TensorRule:
        """Return what is asked of a tensor by its name."""
        return self.tensors.get(tensor, TensorRule())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values without what is left open, as a recipe file would hold them."""
        plain: dict[str, Any] = _pruned(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build a recipe from plain values.

        Raises:
            UnknownNameError: A key is not known.
            RecipeError: A value is of the wrong kind.
        """
        plain = dict(_checked(content, cls, "recipe"))
        for key in ("activations", "weights"):
            plain[key] = _tensor_rule(plain.get(key, {}), key)
        rules = enumerate(plain.get("rules", []), 1)
        plain["rules"] = tuple(_node_rule(rule, number) for number, rule in rules)
        plain["tensors"] = {
            str(name): _tensor_rule(rule, f"tensor {name!r}")
            for name, rule in plain.get("tensors", {}).items()
        }
        return cls(**plain)


def load(path: Path) -> Recipe:
    """Read a recipe file, YAML or JSON.

    Raises:
        RecipeError: The file is missing, is neither, or holds what `Recipe.from_dict` refuses.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter: dates that do not exist
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        return Recipe.from_dict({} if content is None else content)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def dumps(recipe: Recipe) -> str:
    """Return a recipe as one line of JSON."""
    return json.dumps(recipe.to_dict(), sort_keys=True)


def _tensor_rule(content: Mapping[str, Any], where: str) -> TensorRule:
    """Build a tensor rule."""
    plain = dict(_checked(content, TensorRule, where))
    granularity = plain.get("granularity")
    blocks = str(granularity).startswith("block") and not where.endswith("activations")
    read = block if where.endswith("weights") or blocks else channels
    try:
        read(granularity)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    return TensorRule(**plain)


def channels(granularity: str | None) -> int | Literal["auto"] | None:
    """Read a granularity.

    Returns:
        The axis of channels, ``auto`` for that of the operators that read the tensor, None for
        one scale a tensor.

    Raises:
        ValueError: It is none of ``tensor``, ``channel`` and ``channel:AXIS``.
    """
    if granularity in (None, "tensor"):
        return None
    kind, colon, axis = str(granularity).partition(":")
    if kind != "channel" or (colon and not re.fullmatch(r"-?[0-9]+", axis)):
        raise ValueError(f"granularity is tensor, channel or channel:AXIS, not {granularity!r}")
    return int(axis) if colon else "auto"


def block(granularity: str | None) -> int | None:
    """Read a granularity of weights.

    Returns:
        How many inputs of an output take one scale, None for all of them or all weights.

    Raises:
        ValueError: It is none of ``tensor``, ``channel`` and ``block:N``.
    """
    if granularity in (None, "tensor", "channel"):
        return None
    match = re.fullmatch(r"block:([1-9][0-9]{0,8})", str(granularity))
    if not match:
        raise ValueError(
            f"granularity of weights is tensor, channel or block:N, e.g. block:32, not "
            f"{granularity!r}"
        )
    return int(match[1])


def crossbar_size(text: str) -> tuple[int, int]:
    """Read the size of an array: its rows, which are inputs, and its columns, the outputs.

    Raises:
        ValueError: It is not of the form ``RxC`` with both at least 1.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})[x×]([1-9][0-9]{0,8})", text)
    if not match:
        raise ValueError(f"crossbar is rows x columns of an array, e.g. 128x64, not {text!r}")
    return int(match[1]), int(match[2])


def order_file(reorder: str | None) -> Path | None:
    """Return the file an order is read from, if it is not one of the known words.

    Raises:
        UnknownNameError: It is neither a known word nor, by its look, a file.
    """
    if reorder is None or re.fullmatch("|".join(REORDERS) + "|random:[0-9]{1,9}", reorder):
        return None
    if not re.search(r"[./\\]", reorder):
        raise UnknownNameError("reorder", reorder, (*REORDERS, "random:SEED", "FILE.json"))
    return Path(reorder)


def _node_rule(content: Any, number: int) -> NodeRule:
    """Build the n-th node rule."""
    where = f"rule {number}"
    plain = dict(_checked(content, NodeRule, where))
    for key in ("activations", "weights"):
        plain[key] = _tensor_rule(plain.get(key, {}), f"{where}, {key}")
    try:
        return NodeRule(**plain)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


_KINDS: Mapping[str, type] = {
    "correct_bias": bool,
    "fit_ranges": bool,
    "reconstruct": bool,
    "fuse_blocks": bool,
    "qdq": bool,
    "activations": dict,
    "weights": dict,
    "range_options": dict,
    "quantize": bool,
    "symmetric": bool,
    "equalize": bool,
    "equalize_clips": bool,
    "smooth": float,
    "smooth_insert": bool,
    "rules": list,
    "tensors": dict,
}  # all else is text
_SPELLED = {
    dict: "keys and values", bool: "true or false", list: "a list", str: "text", float: "a number",
}  # fmt: skip


def _checked(content: Any, cls: type, where: str) -> Mapping[str, Any]:
    """Refuse what is no mapping, unknown keys and values of the wrong kind; leave out nulls."""
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: expected keys and values, found {content!r}")
    names = {field.name for field in fields(cls)}
    for key in content:
        if key not in names:
            raise UnknownNameError(f"key in {where}", str(key), names)
    given = {key: value for key, value in content.items() if value is not None}
    for key, value in given.items():
        kind = _KINDS.get(key, str)
        whole = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, kind) or whole):
            raise RecipeError(f"{where}: {key} must be {_SPELLED[kind]}, not {value!r}")
    return given


def _first(value: Any, other: Any) -> Any:
    """Return the first of two values, or the other where it is left open."""
    return other if value is None else value


def _given(rule: TensorRule) -> dict[str, Any]:
    """Return the fields of a rule that are not left open."""
    return {key: value for key, value in vars(rule).items() if value is not None}


def _pruned(value: Any) -> Any:
    """Drop None and empty mappings from nested plain values."""
    if isinstance(value, dict):
        pruned = {key: _pruned(item) for key, item in value.items()}
        return {key: item for key, item in pruned.items() if item not in (None, {}, [])}
    if isinstance(value, (list, tuple)):
        return [_pruned(item) for item in value]
    return value
