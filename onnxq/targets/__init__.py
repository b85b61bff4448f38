"""Targets: what a piece of hardware or a runtime can do, as data.

A target is a JSON file in this folder, or one of the user's own named by path. It says which
element types exist, the defaults, where pairs of QuantizeLinear and DequantizeLinear go, and
for each operator a rule. ``docs/targets.md`` says for every shipped file what its rules are and
which documentation they come from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from onnxq.errors import RecipeError, UnknownNameError

Role = Literal["compute", "always", "follow"]
Output = Literal["always", "needed"]
Placement = Literal["both", "inputs"]
Kind = Literal["activations", "weights"]
Packed = Literal["always", "float", "never"]
Blocks = Literal["never", "float", "any"]


@dataclass(frozen=True, kw_only=True)
class OpRule:
    """How a target handles one operator type.

    Attributes:
        role: ``compute``: worth quantizing by itself; its constants are weights. ``always``:
            likewise, but its constants are quantized like activations. ``follow``: quantized
            only between quantized operators, so that no conversion to float comes between them.
        output: ``always`` if the integer kernel writes integers only, ``needed`` if it can also
            write floats.
        inputs: How many of the first inputs carry values; None for 1 with ``share``, 2 with
            ``compute``, else all.
        share: Its output takes the parameters of its first input, since it only moves, selects
            or averages values.
        unify: All its inputs and its output take one set of parameters, from the statistics of
            all of them.
        epilogue: The kernel that writes one of its inputs computes it at its end, so that this
            input needs no integers.
        weights: What it needs of its weights, whatever is asked; keys of a tensor rule.
        output_range: The interval ``[lo, hi)`` its output is quantized to, whatever was seen.
    """

    role: Role
    output: Output = "always"
    inputs: int | None = None
    share: bool = False
    unify: bool = False
    epilogue: bool = False
    weights: Mapping[str, Any] = field(default_factory=dict)
    output_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            ValueError: The role or the output is none of those listed, or values that share one
                set of parameters shall have a range of their own.
        """
        _check_word(self.role, Role)
        _check_word(self.output, Output)
        if self.moves and self.output_range:
            raise ValueError("share and unify exclude an output_range")
        if self.output_range:
            low, high = self.output_range
            object.__setattr__(self, "output_range", (float(low), float(high)))

    @property
    def moves(self) -> bool:
        """Whether what it writes lies on the grid of what it reads."""
        return self.share or self.unify

    @property
    def read(self) -> int | None:
        """How many of the first inputs carry values, None for all."""
        if self.inputs is not None:
            return self.inputs
        return 1 if self.share else 2 if self.role == "compute" else None


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a convolution must have to be worth integers; the defaults ask for nothing.

    Attributes:
        min_outputs: Least number of output channels.
        min_products: Least number of multiplications for every value that is converted from
            or to float because of it.
        grouped_multiple: The output channels of a grouped one are a multiple of this.
    """

    min_outputs: int = 1
    min_products: int = 0
    grouped_multiple: int = 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the hardware can do.

    Attributes:
        name: What people type.
        summary: One line for ``onnxq list``.
        activations: Default rule of activations: dtype, symmetric, granularity, range.
        weights: Default rule of weights, likewise.
        dtypes: Element types allowed for ``activations`` and for ``weights``; and, if those are
            others, for ``weight_only``: the weights of nodes whose activations stay float.
        bias: Element type of biases, or None if they stay float.
        ops: Operator type to rule.
        placement: ``both``: what quantized operators read and write is quantized. ``inputs``:
            only what they read, each pair in front of them; what they write stays float where
            no quantized operator reads it, and what moves values hands the grid on.
        symmetric_only: ``activations``, ``weights`` or both: those must be symmetric.
        absorbs: Operator types that disappear into the kernel before them.
        guards: Operator types whose float weights the runtime quantizes by itself when it finds
            them between DequantizeLinear and QuantizeLinear, unless something stands between.
        worth: What a convolution must have to be worth integers.
        one_scale: Why an activation has one scale; empty where it may have one a channel.
        correct_bias: Whether biases take up the mean error of their layer unless asked otherwise.
        power_of_two: Whether scales are powers of two; nodes then tell their positions.
        float_activations: Whether activations can stay float, weights alone quantized.
        packed: Where codes of 4 bits take half a byte, which few kernels read: ``always``, beside
            ``float`` activations only, or ``never``.
        blocks: Which nodes may have one weight scale for a block of inputs of an output: none,
            those whose activations stay ``float``, or ``any``.
    """

    name: str
    summary: str
    activations: Mapping[str, Any]
    weights: Mapping[str, Any]
    dtypes: Mapping[str, list[str]]
    bias: str | None
    ops: Mapping[str, OpRule]
    placement: Placement = "both"
    symmetric_only: tuple[str, ...] = ()
    absorbs: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    worth: Worth = field(default_factory=Worth)
    one_scale: str = "it has one scale for a whole activation"
    correct_bias: bool = False
    power_of_two: bool = False
    float_activations: bool = False
    packed: Packed = "always"
    blocks: Blocks = "never"

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            ValueError: Placement, packed or blocks are none of those listed, or what must be
                symmetric is neither activations nor weights.
        """
        _check_word(self.placement, Placement)
        _check_word(self.packed, Packed)
        _check_word(self.blocks, Blocks)
        for kind in self.symmetric_only:
            _check_word(kind, Kind)

    def packs(self, *, alone: bool = False) -> bool:
        """Say whether codes of 4 bits take half a byte.

        Args:
            alone: They are those of weights beside float activations.
        """
        return self.packed == "always" or (self.packed == "float" and alone)

    @property
    def tiled(self) -> bool:
        """Whether weights lie on crossbar arrays, one scale an array."""
        return self.weights.get("granularity") == "tile"


def _check_word(value: str, allowed: Any) -> None:
    """Refuse a word that is none of those a literal type lists."""
    if value not in get_args(allowed):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(allowed))}")


def names() -> list[str]:
    """Return the names of the targets shipped with onnxq."""
    folder = files("onnxq.targets")
    return sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith("json"))


@cache
def target(name: str) -> Target:
    """Return a target.

    Args:
        name: One of `names`, or the path of a JSON file.

    Raises:
        UnknownNameError: No target has that name.
        RecipeError: The file is no valid target.
    """
    if name.endswith(".json"):
        text = _read(Path(name))
    elif name in names():
        text = files("onnxq.targets").joinpath(f"{name}.json").read_text(encoding="utf-8")
    else:
        raise UnknownNameError("target", name, names())
    try:
        content = json.loads(text)
        for key in content:
            if key not in {f.name for f in fields(Target)}:
                raise UnknownNameError(
                    f"key of target {name}", key, {f.name for f in fields(Target)}
                )
        content["ops"] = {op: OpRule(**rule) for op, rule in content["ops"].items()}
        for key in ("symmetric_only", "absorbs", "guards"):
            content[key] = tuple(content.get(key, ()))
        content["worth"] = Worth(**content.get("worth", {}))
        return Target(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"target {name}: {error}") from error


def _read(path: Path) -> str:
    """Read a target file of the user's."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"target {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"target {path}: {error}") from error
