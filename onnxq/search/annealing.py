"""Swap channels on tiles, and keep what the samples like better, or not much less."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxq.errors import Interrupted, ModelError
from onnxq.graph import io
from onnxq.graph.chain import Chain
from onnxq.graph.session import Runtime
from onnxq.search.arrangement import Arrangement
from onnxq.search.bench import Bench
from onnxq.search.checkpoint import Checkpoint
from onnxq.search.cooling import AnnealProgress, Cooling
from onnxq.search.exam import Exam
from onnxq.types import Array

WARM = 20  # swaps that tell how far the score moves
EVERY = 20  # swaps between two checkpoints
WARMTH = 0.3  # of the standard deviation of what the first swaps change, the first temperature
TINY = 1e-300


class Annealing:
    """An arrangement on a bench.

    Attributes:
        bench: Scores swaps.
        chain: The model in pieces.
        orders: The best so far, one a family, relative to the draft's.
        best: Its score.
        done: Swaps tried.
        accepted: Swaps accepted.
    """

    def __init__(
        self, arrangement: Arrangement, exam: Exam, cooling: Cooling, runtime: Runtime
    ) -> None:
        """Score the order to begin with.

        Args:
            arrangement: Where every channel stands.
            exam: What to score it on.
            cooling: How to anneal.
            runtime: How to run models.

        Raises:
            ModelError: Nothing that changes places would change a tile.
        """
        self._arrangement, self._cooling = arrangement, cooling
        self._pairs = [_tiles(arrangement, i) for i in range(len(arrangement.orders))]
        self._open = [i for i, tiles in enumerate(self._pairs) if len(np.unique(tiles, axis=0)) > 1]
        if not self._open:
            raise ModelError(
                f"{arrangement.model.path}: nothing to anneal: no two channels that may change "
                "places lie in different tiles"
            )
        proto, folder = io.sync(arrangement.model), arrangement.model.path.parent
        self.chain = Chain(proto, folder, replace(runtime, threads=1, fuse=False))
        workers = cooling.workers or os.cpu_count() or 1
        self.bench = Bench(self.chain, exam, workers=workers, drop=cooling.drop, ordered=False)
        self._rng = np.random.default_rng(cooling.seed)
        self.best = self.start = self.bench.now.score
        self.orders = [order.copy() for order in arrangement.orders]
        self.done = self.accepted = 0
        self._moves: list[float] = []  # what the first swaps change

    def run(
        self, checkpoint: Checkpoint, report: Callable[[AnnealProgress], None] = lambda _: None
    ) -> None:
        """Try swaps.

        Args:
            checkpoint: Where to leave what was found.
            report: Called after every swap.

        Raises:
            CalibrationError: The metric fails, or the checkpoint is of another search.
            Interrupted: Ctrl-C; what was found is in the checkpoint.
        """
        self._restore(checkpoint.load())
        until = math.inf if self._cooling.seconds is None else time.monotonic()
        until += self._cooling.seconds or 0.0
        try:
            while self.done < self._cooling.swaps and time.monotonic() < until:
                going = self.step()
                report(
                    AnnealProgress(
                        done=self.done,
                        total=self._cooling.swaps,
                        score=self.best,
                        name=f"now {self.bench.now.score:.5f}, {self.accepted} accepted",
                    )
                )
                if not going:
                    break
                if self.done % EVERY == 0:
                    checkpoint.save(self._state())
        except KeyboardInterrupt:
            if self._cooling.checkpoint is None:
                raise
            raise Interrupted(f"go on with --resume: {self._cooling.checkpoint}") from None

    def step(self) -> bool:
        """Try one swap; say whether to go on."""
        if self._cooling.restarts_at(self.done) and self.best > self.bench.now.score:
            self.bench.adopt(self._arrangement.place(self.orders))
        family, pair = self._proposed()
        draw = max(float(self._rng.random()), TINY)
        warm = self.done < WARM and self._cooling.temperature is None
        before = self.bench.now.score
        bar = before if warm else before + self._temperature() * self._slack(draw)
        swap = self._arrangement.swap(family, pair)
        trial = self.bench.ask(swap.used, -math.inf if warm else bar)
        self.done += 1
        if warm and trial is not None:
            self._moves.append(trial.score - before)
        if trial is None or not trial.score > bar:
            return warm or self._cooling.threshold is None
        self.bench.keep(trial)
        self._arrangement.keep(swap)
        self.accepted += 1
        if trial.score > self.best:
            self.best = trial.score
            self.orders = [order.copy() for order in self._arrangement.orders]
        return True

    def _slack(self, draw: float) -> float:
        """Return the logarithm of the probability that a worse order has to have."""
        return math.log(draw if self._cooling.threshold is None else self._cooling.threshold)

    def _temperature(self) -> float:
        """Return the temperature now."""
        first = self._cooling.temperature
        if first is None:
            first = WARMTH * float(np.std(self._moves))
        return self._cooling.at(self.done, first)

    def _proposed(self) -> tuple[int, tuple[int, int]]:
        """Draw two channels of a family that lie in different tiles."""
        sizes = np.array([len(self._pairs[i]) for i in self._open], np.float64)
        family = self._open[int(self._rng.choice(len(self._open), p=sizes / sizes.sum()))]
        tiles = self._pairs[family]
        while True:
            one, other = self._rng.integers(len(tiles), size=2).tolist()
            if (tiles[one] != tiles[other]).any():
                return family, (one, other)

    def _state(self) -> dict[str, Any]:
        """Return what to go on from."""
        return {
            "done": self.done,
            "accepted": self.accepted,
            "orders": [order.tolist() for order in self._arrangement.orders],
            "best": [self.best, [order.tolist() for order in self.orders]],
            "start": self.start,
            "moves": self._moves,
            "random": self._rng.bit_generator.state,
            "evaluations": self.bench.evaluations,
            "runs": self.bench.runs,
        }

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        """Return to a saved state."""
        if state is None:
            return
        self.done, self.accepted = state["done"], state["accepted"]
        self.start, self._moves = state["start"], list(state["moves"])
        self.best, self.orders = state["best"][0], [np.array(o) for o in state["best"][1]]
        self._rng.bit_generator.state = state["random"]
        self.bench.adopt(self._arrangement.place([np.array(o) for o in state["orders"]]))
        self.bench.evaluations, self.bench.runs = state["evaluations"], state["runs"]


def _tiles(arrangement: Arrangement, number: int) -> Array:
    """Return the tiles that the lines of each channel of a family lie in, ``(channels, lines)``."""
    layout, found = arrangement.layout, []
    for place in layout.families[number].places:
        layer = layout.layers[place.matrix]
        side = 0 if place.side == "rows" else 1
        size, step = layer.values.shape[side + 1], layer.steps[side]
        group, line = np.divmod(place.lines, size)
        found.append(group * size + line // step)
    return np.concatenate(found, axis=1)
