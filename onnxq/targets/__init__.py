"""Targets: what a piece of hardware or a runtime can do, as data.

A target is a JSON file in this folder, or one of the user's own named by path. It says which
element types exist, the defaults, and for each operator its role:

- ``compute``: worth quantizing by itself;
- ``follow``: quantized only between quantized operators, so that no conversion to float comes
  between them; ``share``: its output takes the parameters of its input, since it only moves or
  selects values.

``output``: ``always`` if the integer kernel writes integers only, ``needed`` if it can also
write floats. ``absorbs``: activations that the integer kernel before them includes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from onnxq.errors import RecipeError, UnknownNameError

Role = Literal["compute", "follow"]
Output = Literal["always", "needed"]


@dataclass(frozen=True, kw_only=True)
class OpRule:
    """How a target handles one operator type; see the module docstring."""

    role: Role
    output: Output = "always"
    share: bool = False

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            ValueError: The role or the output is none of those listed.
        """
        for value, allowed in ((self.role, Role), (self.output, Output)):
            if value not in get_args(allowed):
                raise ValueError(f"{value!r} is none of {', '.join(get_args(allowed))}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the hardware can do.

    Attributes:
        name: What people type.
        summary: One line for ``onnxq list``.
        activations: Default rule of activations: dtype, symmetric, granularity, range.
        weights: Default rule of weights, likewise.
        dtypes: Element types allowed for activations and for weights.
        bias: Element type of biases, or None if they stay float.
        ops: Operator type to rule.
        absorbs: Operator types that disappear into the kernel before them.
        guards: Operator types whose float weights the runtime quantizes by itself when it finds
            them between DequantizeLinear and QuantizeLinear, unless something stands between.
    """

    name: str
    summary: str
    activations: Mapping[str, Any]
    weights: Mapping[str, Any]
    dtypes: Mapping[str, list[str]]
    bias: str | None
    ops: Mapping[str, OpRule]
    absorbs: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()


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
            if key not in {field.name for field in fields(Target)}:
                raise UnknownNameError(
                    f"key of target {name}", key, {f.name for f in fields(Target)}
                )
        content["ops"] = {op: OpRule(**rule) for op, rule in content["ops"].items()}
        for key in ("absorbs", "guards"):
            content[key] = tuple(content.get(key, ()))
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
