"""``onnxq search``: look for the strategy that quantizes a model best."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.search_flags import SEARCH, SearchFlags
from onnxq.cli.spelling import spelled

if TYPE_CHECKING:  # heavy, and not every command searches
    from onnxq.cli.search_flags import Setup
    from onnxq.search.searching import Searched, Searching

GROUPS = 4  # of samples, where the search calibrates
KEPT = 32  # samples kept then: biases are corrected on most of them
ALL_FACTORS = "samples, ranges, repairs, widths, float, symmetric, granularity"


@dataclass(frozen=True, kw_only=True)
class HuntFlags:
    """How long to search and for what; each field is a flag, and what it means is its help."""

    budget: Annotated[
        str | None,
        typer.Option(
            metavar="90s|30m|2h",
            help="How long to search; 10m unless something else ends it.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    evaluations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many strategies to evaluate, those of a run that is resumed included.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    generations: Annotated[
        int | None,
        typer.Option(min=1, help="How many generations to breed.", rich_help_panel=SEARCH),
    ] = None
    target_metric: Annotated[
        float | None,
        typer.Option(help="Stop once the score is at least this.", rich_help_panel=SEARCH),
    ] = None
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="quality|size|latency",
            help="What to improve; repeatable, the front of all is shown. quality by default, "
            "size with a bound.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help=f"What to open, of {ALL_FACTORS}. By default the first three, widths where size "
            "counts, float where latency does.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    show_space: Annotated[
        bool,
        typer.Option(
            "--show-space", help="Print what may be chosen, and stop.", rich_help_panel=SEARCH
        ),
    ] = False
    population: Annotated[
        int, typer.Option(min=2, help="How many survive a generation.", rich_help_panel=SEARCH)
    ] = 32
    searcher: Annotated[
        str,
        typer.Option(
            metavar="evolution|random", help="How to choose what to try.", rich_help_panel=SEARCH
        ),
    ] = "evolution"
    screen: Annotated[
        bool,
        typer.Option(
            help="Let the additive model choose among offspring before any is run.",
            rich_help_panel=SEARCH,
        ),
    ] = True
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="A folder that several processes and machines may share; by default "
            "OUTPUT.search, for this one alone.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    min_cosine: options.MinCosine = None
    max_drop: options.MaxDrop = None
    best_effort: options.BestEffort = False
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a page with plots.", rich_help_panel=options.OUT
        ),
    ] = None
    max_opset: Annotated[
        int | None, typer.Option(min=10, help="Refuse to write a newer operator set.")
    ] = None

    def folder(self, output: Path) -> Path:
        """Return the folder of what was evaluated."""
        return self.store or output.with_name(f"{output.name}.search")

    def searching(self, given: SearchFlags) -> "Searching":
        """Return what the flags ask for, but for the metric.

        Raises:
            UsageError: They mean nothing together.
        """
        from onnxq.cli.common import seconds_of  # noqa: PLC0415
        from onnxq.errors import UsageError  # noqa: PLC0415
        from onnxq.search.lifting import Bounds  # noqa: PLC0415
        from onnxq.search.searching import Searching  # noqa: PLC0415

        bound = self.min_cosine is not None or self.max_drop is not None
        if self.best_effort and not bound:
            raise UsageError("--best-effort is about bounds: give --min-cosine or --max-drop")
        if self.max_drop is not None and given.metric is None:
            raise UsageError("--max-drop counts in a metric: name one with --metric")
        ends = self.budget or self.evaluations or self.generations
        budget = seconds_of(self.budget or "10m", "--budget") if self.budget or not ends else None
        factors = tuple(each.strip() for each in self.factors.split(",")) if self.factors else None
        return Searching(
            objectives=tuple(self.objective or (["size"] if bound else ["quality"])),
            bounds=Bounds(min_cosine=self.min_cosine, max_drop=self.max_drop) if bound else None,
            best_effort=self.best_effort,
            factors=factors,
            budget=budget,
            evaluations=self.evaluations,
            generations=self.generations,
            target=self.target_metric,
            population=self.population,
            searcher=self.searcher,
            screen=self.screen,
            drop=not given.exact,
            seed=given.seed,
            workers=given.workers,
            store=self.folder(given.output),
            shared=self.store is not None,
            resume=given.resume,
            max_opset=self.max_opset,
        )


@spelled
def search(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    *,
    given: SearchFlags,
    hunt: HuntFlags,
    asked: RecipeFlags,
) -> None:
    """Search for the strategy that quantizes a model best: ranges, samples, widths, repairs.

    What flags and recipe say stays; all else is open. The best so far is written at the end of
    the budget or on Ctrl-C; --resume goes on.

    [bold]onnxq search model.onnx --data calib/ --weights int4 --budget 30m -o best.onnx[/bold]

    [bold]onnxq search model.onnx --data calib/ --objective size --min-cosine 0.99 -o
    small.onnx[/bold]
    """
    from dataclasses import replace  # noqa: PLC0415

    from onnxq.calibrating import Collection  # noqa: PLC0415
    from onnxq.cli.common import check_order  # noqa: PLC0415
    from onnxq.cli.search_flags import setup  # noqa: PLC0415
    from onnxq.cli.search_screen import watched  # noqa: PLC0415
    from onnxq.search import evolve  # noqa: PLC0415
    from onnxq.search.store import check_unused  # noqa: PLC0415
    from onnxq.search.tune import recipe_path  # noqa: PLC0415

    searching, folder = hunt.searching(given), hunt.folder(given.output)
    kept = folder / evolve.TABLE
    going_on = given.resume or searching.shared
    if given.calib is None and kept.exists() and going_on:
        given = replace(given, calib=kept)
    if not (going_on or hunt.show_space):
        check_unused(folder)
    ready = setup(
        *(model, given, asked),
        [recipe_path(given.output), *([hunt.html] if hunt.html else [])],
        check_order,
        collection=Collection(groups=GROUPS, keep_samples=KEPT),
        metric=searching.metric,
    )
    searching = replace(searching, metric=ready.metric)
    if hunt.show_space:
        _show(ready, model, searching)
        return
    with ready.screen.events():
        with watched(ready.screen) as report:
            result = evolve.evolve(
                *(model, ready.table, ready.recipe, ready.data, given.output),
                searching=searching,
                runtime=ready.runtime,
                report=report,
            )
        _tell(ready, result, hunt.html, _again(model, given, result, folder))


def _show(ready: "Setup", model: Path, searching: "Searching") -> None:
    """Print what may be chosen."""
    from onnxq.report.searching import space_dict, space_tables  # noqa: PLC0415
    from onnxq.search.evolve import opened  # noqa: PLC0415

    asked = ready.table, ready.recipe, searching, ready.data[0], ready.runtime
    space = opened(model, *asked).space
    for shown in space_tables(space):
        ready.screen.print(shown)
    ready.screen.json(space_dict(space))


def _again(model: Path, given: SearchFlags, result: "Searched", folder: Path) -> list[str]:
    """Return the command that writes the same model again."""
    from onnxq.search.evolve import COMPLETED, TABLE  # noqa: PLC0415

    calib = folder / COMPLETED if result.recipe.rescales else given.calib or folder / TABLE
    words = ["onnxq", "quantize", str(model), f"--calib={calib}"]
    if result.groups is not None:
        words.append(f"--groups={','.join(map(str, result.groups))}")
    return [*words, f"--recipe={result.recipe_path}", "-o", str(given.output)]


def _tell(ready: "Setup", result: "Searched", html: Path | None, again: list[str]) -> None:
    """Print and write what was found."""
    import shlex  # noqa: PLC0415

    from onnxq.cli.search_flags import tell  # noqa: PLC0415
    from onnxq.errors import Interrupted  # noqa: PLC0415
    from onnxq.files import staged  # noqa: PLC0415
    from onnxq.report.search_page import page  # noqa: PLC0415
    from onnxq.report.searching import searched_dict, searched_tables  # noqa: PLC0415

    command = shlex.join(again)
    content = searched_dict(result, Path(again[2]), command)
    if html is not None:
        with staged(html) as temporary:
            temporary.write_text(page(content), encoding="utf-8")
    tables = searched_tables(result, command)
    tell(ready.screen, result.quantized, tables, {"event": "result", **content})
    if result.interrupted:
        raise Interrupted(f"the best so far is in {result.quantized.path}; --resume goes on")
