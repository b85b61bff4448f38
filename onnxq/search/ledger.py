"""Which layers were tried to be lifted together, and what came of it."""

import logging
from collections.abc import Callable, Iterable, Sequence

from onnxq.errors import CalibrationError
from onnxq.layers import Layer
from onnxq.numerics.cover import by_weight, by_worth, enough, returned, shortest
from onnxq.search.costs import Costs
from onnxq.search.lifting import Bounds, Lifting, LiftProgress
from onnxq.search.trials import Trial, Workshop

log = logging.getLogger(__name__)


class Ledger:
    """Quantizes with layers lifted, and keeps what is found.

    Attributes:
        ranked: The layers that may be lifted, most effect first.
        costs: What they cost.
        count: Models quantized.
    """

    def __init__(
        self,
        shop: Workshop,
        plain: Trial,
        ranked: Sequence[Layer],
        costs: Costs,
        lifting: Lifting,
    ) -> None:
        """Begin with the model of which nothing is lifted.

        Args:
            shop: Quantizes and measures.
            plain: That model.
            ranked: The layers of it, most effect first.
            costs: What they cost.
            lifting: What must hold, and how often to try.
        """
        self.ranked, self.costs, self.count = ranked, costs, 1
        self._shop, self._lifting = shop, lifting
        self._ops = {layer.name: layer.op for layer in ranked}
        self._unable: set[frozenset[str]] = set()
        self._trials: dict[frozenset[str], Trial | None] = {plain.lifted: plain}

    @property
    def found(self) -> list[Trial]:
        """All models that were quantized."""
        return [trial for trial in self._trials.values() if trial is not None]

    @property
    def best(self) -> Trial | None:
        """The model that holds the bounds with most multiply-adds left in integers."""
        held = [trial for trial in self.found if self._bounds.hold(trial.measured)]
        return max(held, key=self._left, default=None)

    @property
    def nearest(self) -> Trial:
        """The model that comes nearest to the bounds."""
        return min(self.found, key=lambda trial: self._bounds.strain(trial.measured))

    @property
    def _bounds(self) -> Bounds:
        """What must hold."""
        return self._lifting.bounds

    def _left(self, trial: Trial) -> tuple[int, float]:
        """Return the multiply-adds left in integers, and less the more work is lifted."""
        work = sum(self.costs.of(name).work for name in trial.lifted)
        return self.costs.integer(trial.plan, trial.lifted), -work

    def ordered(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return name and operator type of layers, most effect first."""
        wanted = set(names)
        return [(layer.name, layer.op) for layer in self.ranked if layer.name in wanted]

    def trial(self, names: Iterable[str]) -> Trial | None:
        """Quantize with layers lifted, unless that was done; None if that is no model."""
        key = frozenset(names)
        if key not in self._trials:
            self.count += 1
            try:
                self._trials[key] = self._shop.trial(self.ordered(key))
            except CalibrationError as error:
                log.info("these layers cannot be lifted: %s", error)
                self._trials[key] = None
                self._unable.add(key)
        return self._trials[key]

    def search(self, report: Callable[[LiftProgress], None]) -> None:
        """Look for the fewest multiply-adds whose lifting makes the bounds hold.

        Args:
            report: Called before every model that is quantized.
        """
        effects = [layer.effect for layer in self.ranked]
        work = [self.costs.of(layer.name).work for layer in self.ranked]
        strain = self._bounds.strain(self.found[0].measured)

        def holds(names: Sequence[str]) -> bool:
            """Say whether the bounds hold; not if nothing more may be tried."""
            if frozenset(names) not in self._trials:
                if self.count >= self._lifting.trials:
                    return False
                score = self.found[-1].measured.cosine
                told = f"{len(names)} layers"
                total = self._lifting.trials
                report(LiftProgress(done=self.count, total=total, name=told, score=score))
            trial = self.trial(names)
            if trial is None:  # all of it is float, or there is none
                return frozenset(names) not in self._unable
            return self._bounds.hold(trial.measured)

        for order in (by_worth(effects, work), by_weight(effects)):
            names = self._cheaper([self.ranked[i].name for i in order])
            if names:
                guess = enough(order, effects, sum(effects) / strain)
                shortest(names, holds, guess)
        if self.best is not None:
            returned(sorted(self.best.lifted, key=self._size), holds)

    def _size(self, name: str) -> tuple[float, float, str]:
        """Sort the largest layers first."""
        cost = self.costs.of(name)
        return -cost.macs, -cost.work, name

    def _cheaper(self, names: list[str]) -> list[str]:
        """Return the beginning of a list of layers that costs less than the best so far."""
        if self.best is None:
            return names
        most = sum(self.costs.of(name).work for name in self.best.lifted)
        spent, count = 0.0, 0
        for name in names:
            spent += self.costs.of(name).work
            if spent >= most:
                break
            count += 1
        return names[:count]
