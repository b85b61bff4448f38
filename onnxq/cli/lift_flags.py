"""The flags that say what a quantized model must hold, and what to do if it does not."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli import options

if TYPE_CHECKING:  # heavy, and not every command lifts
    from onnxq.search.lifting import Lifting
    from onnxq.sources import Source


@dataclass(frozen=True, kw_only=True)
class LiftFlags:
    """What must hold and how to get there; each field is a flag, and what it means is its help."""

    min_cosine: options.MinCosine = None
    max_drop: options.MaxDrop = None
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="float|16bit",
            help="Where a bound is missed, keep as few multiply-adds as it takes float, or give "
            "layers 16-bit activations.",
            rich_help_panel=options.BOUNDS,
        ),
    ] = None
    best_effort: options.BestEffort = False
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Try what repairs there are until the bounds hold, --min-cosine 0.99 if none is "
            "given, then fall back to float; on --data.",
            rich_help_panel=options.BOUNDS,
        ),
    ] = False
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="90s|5m|1h",
            help="Time for --auto, 5m by default.",
            rich_help_panel=options.BOUNDS,
        ),
    ] = None
    eval_data: Annotated[
        str | None,
        typer.Option(
            help="Measure the result on this too; by default every fifth sample of --data is held "
            "out for it. With --auto, --fallback, --max-drop, and as in the search with "
            "--strategy.",
            rich_help_panel=options.DATA,
        ),
    ] = None
    metric: options.MetricName = None
    metric_option: options.MetricOptions = None
    labels: options.Labels = None

    @property
    def searches(self) -> bool:
        """Whether the result is measured, and layers lifted, on samples of its own."""
        return self.auto or self.fallback is not None or self.max_drop is not None

    @property
    def seconds(self) -> float:
        """Time for ``--auto``.

        Raises:
            UsageError: The budget is no time.
        """
        from onnxq.cli.common import seconds_of  # noqa: PLC0415

        return seconds_of(self.budget or "5m", "--budget")

    def lifting(self, max_opset: int | None) -> "Lifting":
        """Return what the flags ask for.

        Raises:
            UsageError: They mean nothing without others.
            OnnxqError: The metric is none, see `onnxq.cli.common.metric_of`.
        """
        from onnxq.cli.common import metric_of  # noqa: PLC0415
        from onnxq.pipeline import WARN_COSINE  # noqa: PLC0415
        from onnxq.search.lifting import Bounds, Lifting  # noqa: PLC0415

        least = self.min_cosine
        if self.auto and least is None and self.max_drop is None:
            least = WARN_COSINE
        lifting = Lifting(
            bounds=Bounds(min_cosine=least, max_drop=self.max_drop),
            how=self.fallback or ("float" if self.auto else None),
            best_effort=self.best_effort,
            max_opset=max_opset,
        )
        metric = metric_of(self.metric, self.metric_option)
        return lifting if metric is None else replace(lifting, metric=metric)

    def check(self, strategy: str | None) -> None:
        """Refuse flags that mean nothing without others.

        Args:
            strategy: Of ``--strategy``.

        Raises:
            UsageError: There are such.
        """
        from onnxq.errors import UsageError  # noqa: PLC0415

        bound = self.min_cosine is not None or self.max_drop is not None
        if self.fallback is not None and not (bound or self.auto):
            raise UsageError("--fallback needs a bound: --min-cosine X or --max-drop X")
        if self.budget is not None and not self.auto:
            raise UsageError("--budget is the time for --auto: give both")
        if self.best_effort and self.fallback is None and not self.auto:
            raise UsageError("--best-effort is about what --fallback cannot reach: give both")
        if self.max_drop is None and (self.metric or self.metric_option or self.labels):
            raise UsageError("--metric, --metric-option and --labels are what --max-drop counts in")
        if self.eval_data is not None and not (self.searches or strategy):
            raise UsageError("--eval-data measures what --auto, --fallback or --max-drop asks for")

    @property
    def label_options(self) -> list[str]:
        """The option of a reader that says where labels are."""
        return [f"labels={self.labels}"] if self.labels else []

    def samples(
        self, source: "Source | None", evaluation: "Source | None", strategy: str | None
    ) -> "tuple[Source, Source] | None":
        """Return the samples to choose on and those to measure on; None for those of the table.

        Args:
            source: Of ``--data``.
            evaluation: Of ``--eval-data``; beside a table it is parted alone.
            strategy: Of ``--strategy``; what it rescales is observed as the search did.

        Raises:
            CalibrationError: There are none with labels, and a metric needs them.
        """
        from onnxq.errors import CalibrationError  # noqa: PLC0415
        from onnxq.search.samples import parts  # noqa: PLC0415

        if (self.searches or strategy) and source is not None:
            return parts(source, evaluation)
        if self.searches and evaluation is not None:
            return parts(evaluation, None)
        if self.max_drop is not None:
            raise CalibrationError(
                "--max-drop needs labelled data, and a table keeps no labels: add --data or "
                "--eval-data"
            )
        return None
