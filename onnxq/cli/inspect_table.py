"""What ``onnxq inspect`` does with a calibration table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.errors import UsageError

OUTLIERS = ("alpha", "beta", "k1", "k2", "variance", "extremes")
ELSEWHERE = (  # flags about what a table does not hold
    "per_channel",
    "weight_range",
    "weight_range_option",
    "weights",
    "reduce_range",
    "exclude",
    "exclude_op",
    "correct_bias",
    "bias_correction",
    "fit_ranges",
    "reconstruct",
    "fuse_blocks",
    "rounding",
    "qdq",
    "crossbar",
    "rows",
    "tile_scales",
    "reorder",
    "reorder_mode",
    "equalize",
    "equalize_clips",
    "smooth",
    "smooth_insert",
)


def show(screen: Any, path: Path, tensor: str | None, asked: RecipeFlags) -> None:
    """Print what a table holds, or what it holds of one tensor.

    Raises:
        UsageError: A flag means nothing here.
        CalibrationError: The file is no table.
        RecipeError: There is no such tensor or algorithm, or an option is refused.
    """
    if tensor is not None:
        _show_tensor(screen, path, tensor, asked)
    elif asked == RecipeFlags():
        _show_all(screen, path)
    else:
        raise UsageError("of a table, flags that say how to quantize go with --tensor NAME only")


def _show_all(screen: Any, path: Path) -> None:
    """Print a row for every tensor."""
    from rich.markup import escape  # noqa: PLC0415

    from onnxq.report.table_overview import overview_dict, overview_lines  # noqa: PLC0415
    from onnxq.table_inspection import overview  # noqa: PLC0415

    found = overview(path)
    for line in overview_lines(found):
        screen.print(escape(line))
    screen.json(overview_dict(found))


def _show_tensor(screen: Any, path: Path, tensor: str, asked: RecipeFlags) -> None:
    """Print one tensor."""
    from rich.markup import escape  # noqa: PLC0415

    from onnxq.cli.common import recipe_of  # noqa: PLC0415
    from onnxq.recipe import TensorRule  # noqa: PLC0415
    from onnxq.report.table_closeup import closeup_dict, closeup_lines  # noqa: PLC0415
    from onnxq.table_inspection import closeup  # noqa: PLC0415
    from onnxq.targets import target  # noqa: PLC0415

    if any(getattr(asked, name) != getattr(RecipeFlags(), name) for name in ELSEWHERE):
        raise UsageError("a table knows activations only: leave out flags about weights and nodes")
    outliers = {name: value for name in OUTLIERS if (value := getattr(asked, name)) is not None}
    left_open: dict[str, Any] = dict.fromkeys(OUTLIERS)  # they mean something without --outlier-var
    recipe = recipe_of(replace(asked, **left_open))
    hardware = target(recipe.target or "cpu")
    rule = recipe.activations.over(TensorRule(**hardware.activations))
    chip = recipe.positions == "chip"
    found = closeup(path, tensor, rule, outliers, power_of_two=hardware.power_of_two, chip=chip)
    for line in closeup_lines(found, screen.width, unicode=screen.unicode):
        screen.print(escape(line))
    screen.json(closeup_dict(found))
