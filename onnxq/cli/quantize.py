"""``onnxq quantize``: write the quantized model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli import options
from onnxq.cli.lift_flags import LiftFlags
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.spelling import spelled


@spelled
def quantize(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The quantized model to write.")],
    calib: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A table written by onnxq calibrate."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(metavar="I,J,…", help="Use only these groups of the table, from 0."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Calibrate now, on this data; with --calib, check bounds on it and observe what "
            "--equalize or --smooth rescales.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    *,
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 8,
    import_path: options.ImportPath = None,
    asked: RecipeFlags,
    given: LiftFlags,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="What onnxq search found: the same model, given the table, the recipe and the "
            "data that were searched with.",
        ),
    ] = None,
    max_opset: Annotated[
        int | None, typer.Option(min=10, help="Refuse to write a newer operator set.")
    ] = None,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the quantized model, checked and compared with the float model.

    [bold]onnxq quantize model.onnx --calib model.calib -o model.int8.onnx[/bold]

    [bold]onnxq quantize model.onnx --data labelled/ --max-drop 0.005 --fallback float -o
    model.int8.onnx[/bold]
    """
    from onnxq import calibrating, pipeline  # noqa: PLC0415
    from onnxq.cli.common import (  # noqa: PLC0415
        check_order,
        recipe_of,
        runtime_of,
        source_of,
        table_of,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.cli.search_flags import tell  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.report.plain import quantized_dict  # noqa: PLC0415
    from onnxq.results import SIDECARS  # noqa: PLC0415

    given.check(strategy)
    _check(calib, data, groups, strategy)
    own = [
        output.with_name(f"{output.name}{suffix}")
        for suffix in ("", ".data", ".recipe.yaml", *SIDECARS)
    ]
    read = [Path(each) for each in (calib, data, given.eval_data, asked.recipe) if each]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=[model, *own, *read])
    recipe = recipe_of(asked)
    check_order(recipe)
    runtime = runtime_of(provider, threads, custom_ops)
    if calib and data and not (given.searches or recipe.rescales or strategy):
        raise UsageError(
            "--data beside --calib is for --fallback, --max-drop, --equalize, --smooth and "
            "--strategy"
        )
    for written in (output, *(own[2:3] if given.searches else ())):
        check_target(written, [model, *read])
    more = (reader, [*(data_option or []), *given.label_options], import_path)
    source, other = (
        source_of(path, *more, (batch_size, most, None)) if path else None
        for path, most in ((data, samples), (given.eval_data, None))
    )
    parted = given.samples(source, other, strategy)
    lifting = given.lifting(max_opset) if given.searches else None
    source = parted[0] if parted else source
    if given.auto and source is None:
        raise UsageError("--auto tries repairs on the calibration data: give --data")
    table = table_of(
        *(screen, model, calib, source, recipe, runtime),
        groups=groups,
        every=given.searches,
        collection=calibrating.collection_for(recipe, repairs=given.auto),
    )
    if strategy is not None:
        recipe, table = _decoded(strategy, (model, table, recipe), source, runtime)
    if lifting is not None:
        jobs = (model, table, recipe, parted, output), {"lifting": lifting, "runtime": runtime}
        if given.auto:
            flags = {"--data": data, "--reader": reader, "--samples": samples}
            _auto(screen, *jobs, given.seconds, (calib, flags, data_option or []))
        else:
            _lift(screen, *jobs)
        return
    result = pipeline.quantize(
        *(model, table, recipe, output),
        limits=pipeline.Limits(min_cosine=given.min_cosine, max_opset=max_opset),
        runtime=runtime,
    )
    tell(screen, result, (), quantized_dict(result))


def _check(calib: Path | None, data: str | None, groups: str | None, strategy: str | None) -> None:
    """Refuse flags that mean nothing without others."""
    from onnxq.errors import UsageError  # noqa: PLC0415

    if calib is None and data is None:
        raise UsageError("give --calib FILE or --data PATH")
    if groups is not None and calib is None:
        raise UsageError("--groups names groups of a table: give it with --calib")
    if groups is not None and strategy is not None:
        raise UsageError("--strategy says which --groups: give only one of them")


def _decoded(code: str, asked: tuple[Path, Any, Any], source: Any, runtime: Any) -> tuple[Any, Any]:
    """Return the recipe of a strategy, and the table it takes."""
    from onnxq.observing import completed  # noqa: PLC0415
    from onnxq.search.evolve import strategy_of  # noqa: PLC0415

    model, table, recipe = asked
    found, groups = strategy_of(code, model, table, recipe, source, runtime)
    table = table if groups is None else table.only(groups)
    return found, table if source is None else completed(model, table, found, source, runtime)


def _lift(screen: Any, asked: tuple[Any, ...], how: dict[str, Any]) -> None:
    """Write the model, as much of it lifted as the bounds need, and tell of it."""
    from onnxq.cli.search_flags import tell  # noqa: PLC0415
    from onnxq.report.lifting import lifted_dict, lifted_tables  # noqa: PLC0415
    from onnxq.search.lift import lift  # noqa: PLC0415

    with screen.steps("quantize", "trials") as step:
        found = lift(*asked, **how, report=step)
    tell(screen, found.quantized, lifted_tables(found), lifted_dict(found))


def _auto(
    screen: Any,
    asked: tuple[Any, ...],
    how: dict[str, Any],
    seconds: float,
    read: tuple[Path | None, dict[str, Any], list[str]],
) -> None:
    """Write the model, repaired and lifted, and tell of it and of the command without a search.

    Args:
        screen: Where to print.
        asked: What `onnxq.search.auto.auto` is asked.
        how: How.
        seconds: Time for it.
        read: The table's file, the flags of the data, and the options of its reader.
    """
    import shlex  # noqa: PLC0415

    from onnxq.cli.search_flags import tell  # noqa: PLC0415
    from onnxq.report.lifting import (  # noqa: PLC0415
        automatic_dict,
        automatic_lines,
        lifted_tables,
    )
    from onnxq.search.auto import auto  # noqa: PLC0415
    from onnxq.search.tune import recipe_path  # noqa: PLC0415

    with screen.steps("quantize", "trials") as step:
        found = auto(*asked, **how, seconds=seconds, report=step)
    model, output, (calib, flags, options_given) = str(asked[0]), str(asked[-1]), read
    used = [f"--calib={calib}"] if calib else []
    if not calib or found.lifted.recipe.rescales:
        used += [f"{flag}={value}" for flag, value in flags.items() if value is not None]
        used += [f"--data-option={pair}" for pair in options_given]
    used += [f"--recipe={recipe_path(asked[-1])}", "-o", output]
    again = shlex.join(["onnxq", "quantize", model, *used])
    told = (*automatic_lines(found, again), *lifted_tables(found.lifted))
    tell(screen, found.lifted.quantized, told, automatic_dict(found, again))
