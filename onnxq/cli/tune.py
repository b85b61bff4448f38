"""``onnxq tune``: refine scales by the task's own metric."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.search_flags import SEARCH, SearchFlags
from onnxq.cli.spelling import spelled


@spelled
def tune(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    *,
    given: SearchFlags,
    over: Annotated[
        str,
        typer.Option(
            metavar="activations|weights|both", help="What to move.", rich_help_panel=SEARCH
        ),
    ] = "activations",
    min_gain: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="What a direction must gain to count; default 0.001, or 5 % of what is missing "
            "from the best score for cosine, noise and relative-entropy.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    target_metric: Annotated[
        float | None,
        typer.Option(help="Stop once the score is at least this.", rich_help_panel=SEARCH),
    ] = None,
    sweeps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Go through all tensors so often, or until nothing moves.",
            rich_help_panel=SEARCH,
        ),
    ] = 1,
    asked: RecipeFlags,
) -> None:
    """Move the scales of a quantized model, tensor by tensor, to where a metric is best.

    The metric is cosine unless another is named; docs/metrics.md has an example of each.

    [bold]onnxq tune model.onnx --data labelled/ --target fixed-point --metric classification -o
    tuned.onnx[/bold]
    """
    from onnxq.cli.common import check_order  # noqa: PLC0415
    from onnxq.cli.search_flags import setup, tell  # noqa: PLC0415
    from onnxq.report.tuning import tuned_dict, tuned_tables  # noqa: PLC0415
    from onnxq.search import tune as search  # noqa: PLC0415
    from onnxq.search.settings import Tuning  # noqa: PLC0415

    ready = setup(model, given, asked, [search.recipe_path(given.output)], check_order)
    tuning = Tuning(
        metric=ready.metric,
        over=over,
        min_gain=min_gain,
        target=target_metric,
        sweeps=sweeps,
        drop=not given.exact,
        seed=given.seed,
        workers=given.workers,
        checkpoint=given.checkpoint,
        resume=given.resume,
    )
    with ready.screen.steps("tune", "tensors") as step:
        result = search.tune(
            model,
            ready.table,
            ready.recipe,
            ready.data,
            given.output,
            tuning=tuning,
            runtime=ready.runtime,
            report=step,
        )
    tell(ready.screen, result.quantized, tuned_tables(result), tuned_dict(result))
