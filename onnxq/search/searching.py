"""How to search, how far a search has come, and what it found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxq.errors import UsageError
from onnxq.metrics.answers import Metric
from onnxq.metrics.classification import Paired
from onnxq.metrics.unlabelled import Noise
from onnxq.recipe import Recipe
from onnxq.results import Quantized
from onnxq.search.laboratory import Evaluation
from onnxq.search.lifting import Bounds
from onnxq.search.space import CHEAPER, USUAL, Space

OBJECTIVES = ("quality", "size", "latency")
SEARCHERS = ("evolution", "random")


@dataclass(frozen=True, kw_only=True)
class Searching:
    """How to search.

    Attributes:
        metric: What quality is; higher is better.
        objectives: What to improve: ``quality``, ``size``, ``latency``, or several.
        bounds: What a result must hold; None for nothing.
        best_effort: Write the nearest where no strategy holds the bounds.
        factors: What to open, of `onnxq.search.space.FACTORS`; None for what the objectives make
            sense of.
        budget: Seconds; None for no limit.
        evaluations: How many strategies to evaluate, those of an earlier run included; None for
            no limit.
        generations: How many generations; None for no limit.
        target: Stop once the score is at least this.
        population: How many strategies survive a generation.
        batch: How many are evaluated in a generation.
        searcher: ``evolution``, or ``random`` to draw each by lot.
        screen: Whether the additive model chooses among many before any is evaluated.
        drop: Whether to give strategies up once the samples seen show that they cannot matter.
        seed: Of all that is drawn by lot.
        workers: Strategies evaluated at once; 0 for one a core.
        store: Folder of what was evaluated; None for one that is gone afterwards.
        shared: Whether other processes may be searching in the store.
        resume: Go on with what the store holds.
        max_opset: Newest operator set a result may need.
    """

    metric: Metric = field(default_factory=Noise)
    objectives: tuple[str, ...] = ("quality",)
    bounds: Bounds | None = None
    best_effort: bool = False
    factors: tuple[str, ...] | None = None
    budget: float | None = None
    evaluations: int | None = None
    generations: int | None = None
    target: float | None = None
    population: int = 32
    batch: int = 16
    searcher: str = "evolution"
    screen: bool = True
    drop: bool = True
    seed: int = 0
    workers: int = 0
    store: Path | None = None
    shared: bool = False
    resume: bool = False
    max_opset: int | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing, and searches without an end.

        Raises:
            UsageError: A word is none of those listed, or nothing ends the search.
        """
        for objective in self.objectives:
            if objective not in OBJECTIVES:
                raise UsageError(f"--objective {objective!r}: write {', '.join(OBJECTIVES)}")
        if self.searcher not in SEARCHERS:
            raise UsageError(f"--searcher {self.searcher!r}: write {' or '.join(SEARCHERS)}")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UsageError("--objective: name at least one, each once")
        if self.budget is None and self.evaluations is None and self.generations is None:
            raise UsageError("nothing ends the search: give --budget, or --generations N")
        if self.bounds is None and "quality" not in self.objectives:
            raise UsageError(
                f"the {self.objectives[0]} alone: add --objective quality, or a bound, "
                "--min-cosine X or --max-drop X"
            )

    @property
    def opened(self) -> tuple[str, ...]:
        """The factors to open."""
        if self.factors is not None:
            return self.factors
        cheaper = CHEAPER if "size" in self.objectives else ()
        lifted = ("float",) if "latency" in self.objectives else ()
        return (*USUAL, *cheaper, *lifted)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A strategy that was evaluated.

    Attributes:
        number: Counted from 1.
        genes: The strategy.
        code: The same, see `onnxq.search.strategy`.
        origin: ``default``, ``uniform``, ``global``, ``probe``, ``screened``, ``scout``,
            ``offspring``, ``random``, or ``before`` where only a run before this one met it.
        found: What came of it.
        seconds: When, since the search began.
    """

    number: int
    genes: tuple[int, ...]
    code: str
    origin: str
    found: Evaluation
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How far a search was after a generation; also its progress.

    Attributes:
        number: Counted from 1; 0 before the first.
        evaluations: Strategies evaluated so far.
        limit: How many there may be; None for no limit.
        best: The best score so far that holds the bounds.
        front: How many strategies nothing dominates.
        screened: Strategies that were predicted for this generation, and not all evaluated.
        rank_correlation: Spearman's, between predicted and measured loss of strategies drawn
            without it; NaN where not known yet.
        uses_screen: Whether the prediction chose.
        seconds: Since the search began.
        budget: Seconds there are; None for no limit.
        name: What is being done.
        closed: Whether the generation is over.
    """

    number: int = 0
    evaluations: int = 0
    limit: int | None = None
    best: float = math.nan
    front: int = 0
    screened: int = 0
    rank_correlation: float = math.nan
    uses_screen: bool = False
    seconds: float = 0.0
    budget: float | None = None
    name: str = ""
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A strategy, on the samples searched on and on others.

    Attributes:
        row: On the samples searched on.
        held: On samples not searched on.
    """

    row: Row
    held: Evaluation


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What `search` did.

    Attributes:
        quantized: The model written.
        recipe: What it was written by, but for the groups of samples.
        recipe_path: The file of that.
        groups: The groups of samples whose statistics it takes; None for all.
        space: What could be chosen.
        searching: How it was searched.
        rows: All that was evaluated, in order.
        generations: How it went.
        chosen: What was written.
        default: What the recipe gives.
        uniform: The best strategy that asks the same of all tensors.
        front: Strategies that nothing dominates, best quality first.
        shares: By how much each choice lowers the noise of the default, as the additive model has
            it; NaN where there is none.
        gains: On samples not searched on: the chosen one over the default, and over the uniform.
        reached: Whether the bounds hold on the samples searched on; True without any.
        interrupted: Whether Ctrl-C ended it.
        samples: How many were searched on, and how many not.
        seconds: Wall time of all.
    """

    quantized: Quantized
    recipe: Recipe
    recipe_path: Path
    groups: tuple[int, ...] | None
    space: Space
    searching: Searching
    rows: tuple[Row, ...]
    generations: tuple[Generation, ...]
    chosen: Finalist
    default: Finalist
    uniform: Finalist
    front: tuple[Finalist, ...]
    shares: tuple[float, ...]
    gains: Mapping[str, Paired]
    reached: bool
    interrupted: bool
    samples: tuple[int, int]
    seconds: float
