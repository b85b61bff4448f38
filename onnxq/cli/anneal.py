"""``onnxq anneal``: improve the order of channels on tiles by the outputs of the model."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.search_flags import SEARCH, SearchFlags
from onnxq.cli.spelling import spelled


@spelled
def anneal(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    *,
    given: SearchFlags,
    swaps: Annotated[
        int, typer.Option(min=1, help="Swaps of two channels to try.", rich_help_panel=SEARCH)
    ] = 1000,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so long, if that is sooner.", rich_help_panel=SEARCH),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="To begin with, in units of the score; falls to a hundredth. Default: 0.3 of the "
            "standard deviation of what the first swaps change. 0 takes what is better only.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    restarts: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often to warm up again, from the best order so far, within the swaps.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    accept: Annotated[
        str,
        typer.Option(
            metavar="metropolis|threshold:P",
            help="Take a worse order with probability exp(gain/T); or, as published, while that "
            "exceeds P, and end at the first swap for which it does not.",
            rich_help_panel=SEARCH,
        ),
    ] = "metropolis",
    asked: RecipeFlags,
) -> None:
    """Let channels on tiles change places as long as the model's outputs become better.

    Starts with the order of --reorder; the order found is written beside the model, for
    quantize --reorder FILE. The metric is cosine unless another is named.

    [bold]onnxq anneal model.onnx --data samples/ --target crossbar --crossbar 64x64 --weights int4
    --reorder cluster -o q.onnx[/bold]
    """
    from onnxq.cli.search_flags import setup, tell  # noqa: PLC0415
    from onnxq.report.annealing import annealed_dict, annealed_tables  # noqa: PLC0415
    from onnxq.search import anneal as search  # noqa: PLC0415
    from onnxq.search.cooling import Cooling, threshold_of  # noqa: PLC0415

    threshold = threshold_of(accept)
    ready = setup(model, given, asked, [search.order_path(given.output)])
    cooling = Cooling(
        swaps=swaps,
        seconds=seconds,
        temperature=temperature,
        restarts=restarts,
        threshold=threshold,
        drop=not given.exact,
        seed=given.seed,
        workers=given.workers,
        checkpoint=given.checkpoint,
        resume=given.resume,
    )
    with ready.screen.steps("anneal", "swaps") as step:
        result = search.anneal(
            model,
            ready.table,
            ready.recipe,
            ready.data,
            given.output,
            metric=ready.metric,
            cooling=cooling,
            runtime=ready.runtime,
            report=step,
        )
    tell(ready.screen, result.quantized, annealed_tables(result), annealed_dict(result))
