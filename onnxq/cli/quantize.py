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
    from onnxq import pipeline  # noqa: PLC0415
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

    given.check()
    if calib is None and data is None:
        raise UsageError("give --calib FILE or --data PATH")
    if groups is not None and calib is None:
        raise UsageError("--groups names groups of a table: give it with --calib")
    suffixes = ("", ".data", ".recipe.yaml", *SIDECARS)
    own = [output.with_name(f"{output.name}{suffix}") for suffix in suffixes]
    read = [Path(each) for each in (calib, data, given.eval_data, asked.recipe) if each]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=[model, *own, *read])
    recipe = recipe_of(asked)
    check_order(recipe)
    runtime = runtime_of(provider, threads, custom_ops)
    if calib and data and not (given.searches or recipe.rescales):
        raise UsageError(
            "--data beside --calib is for --fallback, --max-drop, --equalize and --smooth"
        )
    for written in (output, *(own[2:3] if given.searches else ())):
        check_target(written, [model, *read])
    more = (reader, [*(data_option or []), *given.label_options], import_path)
    source, other = (
        source_of(path, *more, (batch_size, most, None)) if path else None
        for path, most in ((data, samples), (given.eval_data, None))
    )
    parted = given.samples(source, other)
    lifting = given.lifting(max_opset) if given.searches else None
    source = parted[0] if parted else source
    if given.auto and source is None:
        raise UsageError("--auto tries repairs on the calibration data: give --data")
    table = table_of(
        *(screen, model, calib, source, recipe, runtime),
        groups=groups,
        every=given.searches,
        repairs=given.auto,
    )
    if lifting is not None:
        seconds = given.seconds if given.auto else None
        _search(screen, (model, table, recipe, parted, output), lifting, runtime, seconds)
        return
    limits = pipeline.Limits(min_cosine=given.min_cosine, max_opset=max_opset)
    result = pipeline.quantize(model, table, recipe, output, limits=limits, runtime=runtime)
    tell(screen, result, (), quantized_dict(result))


def _search(
    screen: Any, asked: tuple[Any, ...], lifting: Any, runtime: Any, seconds: float | None
) -> None:
    """Write the model, repaired if there is time for it, and as much lifted as the bounds need."""
    from onnxq.cli.search_flags import tell  # noqa: PLC0415
    from onnxq.report.lifting import (  # noqa: PLC0415
        automatic_dict,
        automatic_lines,
        lifted_dict,
        lifted_tables,
    )
    from onnxq.search.auto import auto  # noqa: PLC0415
    from onnxq.search.lift import lift  # noqa: PLC0415

    how: dict[str, Any] = {"lifting": lifting, "runtime": runtime}
    with screen.steps("quantize", "trials") as step:
        if seconds is None:
            lifted = lift(*asked, **how, report=step)
            told: Any = (), lifted_dict(lifted)
        else:
            found = auto(*asked, **how, seconds=seconds, report=step)
            lifted, told = found.lifted, (automatic_lines(found), automatic_dict(found))
    tell(screen, lifted.quantized, [*told[0], *lifted_tables(lifted)], told[1])
