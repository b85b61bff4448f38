"""From flags to the values the library takes."""

import re
import sys
from pathlib import Path
from typing import Literal

from onnxq.cli.options import key_values
from onnxq.errors import UsageError
from onnxq.feeds import Cut
from onnxq.graph.session import Runtime
from onnxq.pipeline import Source
from onnxq.recipe import NodeRule, Recipe, TensorRule, load


def source_of(
    data: str,
    reader: str | None,
    data_options: list[str] | None,
    import_path: Path | None,
    cut: tuple[int, int | None, str | None],
) -> Source:
    """Build the data source; ``cut`` is batch size, number of samples, shard ``I/N``.

    Raises:
        UsageError: An option or the shard is not of its form.
    """
    if import_path is not None:
        sys.path.insert(0, str(import_path.resolve()))
    batch_size, samples, shard = cut
    return Source(
        data=data,
        reader=reader,
        options=key_values(data_options, "--data-option"),
        cut=Cut(batch_size=batch_size, samples=samples, shard=_shard(shard)),
    )


def _shard(text: str | None) -> tuple[int, int]:
    """Read ``I/N``."""
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--shard {text!r}: write I/N with 0 ≤ I < N, e.g. 0/4")
    return int(index), int(count)


def channels_of(granularity: str | None) -> int | Literal["auto"] | None:
    """Read ``tensor``, ``channel`` or ``channel:AXIS``.

    Raises:
        UsageError: It is none of these.
    """
    if granularity in (None, "tensor"):
        return None
    kind, colon, axis = str(granularity).partition(":")
    if kind != "channel" or (colon and not re.fullmatch(r"-?\d+", axis)):
        raise UsageError(
            f"--activation-granularity {granularity!r}: write tensor, channel or channel:AXIS"
        )
    return int(axis) if colon else "auto"


def runtime_of(provider: str, threads: int, custom_ops: Path | None) -> Runtime:
    """Build the description of how to run models."""
    return Runtime(provider=provider, threads=threads, custom_ops=custom_ops)


def asked(
    recipe: Path | None,
    target: str | None,
    weights: TensorRule | None = None,
    activations: TensorRule | None = None,
    rules: tuple[NodeRule, ...] = (),
) -> Recipe:
    """Lay what the flags say over the recipe file.

    Raises:
        RecipeError: The file is no recipe.
    """
    flags = Recipe(
        target=target,
        weights=weights or TensorRule(),
        activations=activations or TensorRule(),
        rules=rules,
    )
    return flags.over(load(recipe)) if recipe else flags


def reduced(dtype: str | None, reduce_range: bool) -> str | None:
    """Return the element type of weights that both flags ask for.

    Raises:
        UsageError: They contradict each other.
    """
    if reduce_range and dtype is not None:
        raise UsageError("--reduce-range means --weights int7: give only one of them")
    return "int7" if reduce_range else dtype


def weights_rule(
    dtype: str | None, algorithm: str | None, *, per_channel: bool | None
) -> TensorRule:
    """Build what the flags ask of weights."""
    granularity = {None: None, True: "channel", False: "tensor"}[per_channel]
    return TensorRule(dtype=dtype, granularity=granularity, range=algorithm)


def activations_rule(
    dtype: str | None,
    algorithm: str | None,
    range_options: list[str] | None,
    *,
    symmetric: bool | None,
) -> TensorRule:
    """Build what the flags ask of activations."""
    return TensorRule(
        dtype=dtype,
        symmetric=symmetric,
        range=algorithm,
        range_options=key_values(range_options, "--range-option") or None,
    )


def exclusions(names: list[str] | None, ops: list[str] | None) -> tuple[NodeRule, ...]:
    """Build rules that keep nodes float."""
    by_name = tuple(NodeRule(name=name, quantize=False) for name in names or [])
    return by_name + tuple(NodeRule(op=op, quantize=False) for op in ops or [])
