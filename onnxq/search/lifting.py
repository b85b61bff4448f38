"""What a quantized model must hold, how to get there, and what became of each layer lifted."""

import math
from dataclasses import dataclass, field

from onnxq.errors import UnsupportedError, UsageError
from onnxq.metrics.answers import Metric
from onnxq.metrics.classification import Classification
from onnxq.search.trials import Measured
from onnxq.targets import Target

HOW = ("float", "16bit")
TRIALS = 40  # models quantized to find what to lift
TINY = 1e-6  # a bound that leaves no room is taken as this wide where it divides


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a quantized model must hold; None for no bound.

    Attributes:
        min_cosine: Least mean cosine between its worst output and the float model's.
        max_drop: Most that the float model may score more by the metric.
    """

    min_cosine: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that bind nothing.

        Raises:
            UsageError: There is none.
        """
        if self.min_cosine is None and self.max_drop is None:
            raise UsageError("a bound is needed: --min-cosine X or --max-drop X")

    def hold(self, found: Measured) -> bool:
        """Say whether a model is near enough; NaN never is."""
        near = self.min_cosine is None or found.cosine >= self.min_cosine
        return near and (self.max_drop is None or found.drop <= self.max_drop)

    def strain(self, found: Measured) -> float:
        """Return what is lost over what may be, by the bound that is kept worst; 1 just holds."""
        strains = []
        if self.min_cosine is not None:
            strains.append((1 - found.cosine) / max(1 - self.min_cosine, TINY))
        if self.max_drop is not None:
            strains.append(found.drop / max(self.max_drop, TINY))
        return math.inf if any(map(math.isnan, strains)) else max(strains)

    def spelled(self, found: Measured, metric: str) -> str:
        """Say how a model stands to the bounds."""
        told = []
        if self.min_cosine is not None:
            told.append(f"cosine {found.cosine:.5f}, asked for {self.min_cosine}")
        if self.max_drop is not None:
            told.append(f"{metric} drops by {found.drop:.5f}, allowed {self.max_drop}")
        return "; ".join(told)


@dataclass(frozen=True, kw_only=True)
class Lifting:
    """How to hold bounds by taking layers out of the integers.

    Attributes:
        bounds: What must hold.
        how: What becomes of a layer that is lifted: ``float``, or ``16bit`` activations; None
            lifts nothing, and only measures.
        metric: What ``max_drop`` is counted in; by default top-1 accuracy.
        best_effort: Write the nearest model found where none holds.
        max_opset: Newest operator set the result may need.
        trials: Models quantized to find what to lift, at most.
    """

    bounds: Bounds
    how: str | None = "float"
    metric: Metric = field(default_factory=lambda: Classification(weight=1.0))
    best_effort: bool = False
    max_opset: int | None = None
    trials: int = TRIALS

    def __post_init__(self) -> None:
        """Refuse to lift to what is none.

        Raises:
            UsageError: It is none of those above, or best effort is asked for without any.
        """
        if self.how is not None and self.how not in HOW:
            raise UsageError(f"--fallback {self.how!r}: write float or 16bit")
        if self.best_effort and self.how is None:
            raise UsageError("--best-effort is about what --fallback cannot reach: give both")


def lifted_dtype(target: Target, how: str | None, asked: str) -> str | None:
    """Return the element type of the activations of lifted layers; None for float.

    Args:
        target: What the hardware can do.
        how: Of `HOW`, or None.
        asked: The type they have if they are not lifted; its sign is kept where possible.

    Raises:
        UnsupportedError: The target has no 16-bit activations.
    """
    if how != "16bit":
        return None
    wide = [name for name in target.dtypes["activations"] if name in ("int16", "uint16")]
    if not wide:
        raise UnsupportedError(
            f"target {target.name} has no 16-bit activations: use --fallback float"
        )
    alike = [name for name in wide if name.startswith("u") == asked.startswith("u")]
    return (alike or wide)[0]


@dataclass(frozen=True, kw_only=True)
class LiftedLayer:
    """A layer that was lifted.

    Attributes:
        name: Its node.
        op: Operator type.
        macs: Multiply-adds for one sample.
        share: Of all multiply-adds of the model.
        effect_sqnr: SQNR in dB of the outputs where only this layer adds an error.
        after: How near the model is with this layer and those above it lifted; None where several
            were lifted at once and this is not the last of them.
    """

    name: str
    op: str
    macs: int
    share: float
    effect_sqnr: float
    after: Measured | None


@dataclass(frozen=True, kw_only=True)
class LiftProgress:
    """How far lifting has come.

    Attributes:
        done: Models quantized so far.
        total: Models quantized at most.
        name: Which layers the next one lifts, or how many.
        score: Cosine of the last one.
    """

    done: int
    total: int
    name: str
    score: float
