"""What tuning did, for people and for machines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from onnxq.metrics.classification import Paired
from onnxq.report.plain import quantized_dict
from onnxq.report.values import number
from onnxq.search.exam import Side
from onnxq.search.settings import Move
from onnxq.search.tune import Tuned


def tuned_tables(result: Tuned) -> Iterator[Table | str]:
    """Yield the tensors that moved, the scores, and what the search cost."""
    moved = [move for move in result.moves if move.before != move.after]
    if moved:
        yield _moved(moved)
    sides = {"tuned on": result.kept, "not tuned on": result.held}
    yield sides_table(result.metric, "tuned", sides)
    ran, whole = result.runs
    yield (
        f"{len(result.moves)} tensors, {result.evaluations} candidates in {result.seconds:.1f} s; "
        f"{ran} of {whole} batches run; {result.pieces} pieces"
    )
    if not moved:
        yield "no tensor moved: nothing gained enough"
    elif not result.improved:
        yield "warning: the tuned model scored no better when written: it is the one from before"
    elif result.held.gain.difference < 0:
        yield "warning: the tuned model scores worse on the samples it was not tuned on"
    yield f"recipe: {result.recipe_path}"


def sides_table(metric: str, after: str, sides: Mapping[str, Side]) -> Table:
    """Return the scores on several sets of samples, before and after a search.

    Args:
        metric: Its name.
        after: What the model is called afterwards.
        sides: By what the samples are called.
    """
    table = Table()
    for heading in (metric, "samples", "float", "before", after, "change", "SQNR dB"):
        table.add_column(heading, justify="left" if heading == metric else "right")
    for name, side in sides.items():
        table.add_row(name, *_row(side))
    return table


def _moved(moves: Sequence[Move]) -> Table:
    """Return the tensors that moved, and what each gained."""
    table = Table(title="moved", title_justify="left")
    for heading in ("tensor", "of", "from", "to", "gain"):
        table.add_column(heading, justify="right" if heading == "gain" else "left")
    for move in moves:
        row = _spelled(move.before), _spelled(move.after), f"{move.gain:+.5f}"
        table.add_row(move.name, move.reason, *row)
    return table


def _spelled(options: Mapping[str, Any]) -> str:
    """Spell a range."""
    if "position" in options:
        return f"position {_short(options['position'])}"
    return f"{_short(options['lo'])} … {_short(options['hi'])}"


def _short(value: Any) -> str:
    """Spell a number; of several the first and the last."""
    if isinstance(value, (list, tuple)):
        return f"[{_short(value[0])}, …, {_short(value[-1])}]"
    return f"{value:.4g}"


def _row(side: Side) -> tuple[str, ...]:
    """Return the scores of one set of samples."""
    before, after = (f"{near.sqnr:.2f}" for near in side.similarities)
    return (
        str(side.samples),
        f"{side.before.before:.5f}",
        f"{side.before.after:.5f}",
        f"{side.after.after:.5f}",
        f"{side.gain.difference:+.5f} ± {side.gain.half_width:.5f}",
        f"{before} → {after}",
    )


def tuned_dict(result: Tuned) -> dict[str, Any]:
    """Return what `tune` did as plain values."""
    return {
        "model": quantized_dict(result.quantized),
        "recipe": str(result.recipe_path),
        "metric": result.metric,
        "improved": result.improved,
        "tuned_on": side_dict(result.kept, "tuned"),
        "not_tuned_on": side_dict(result.held, "tuned"),
        "tensors": [_move_dict(move) for move in result.moves],
        "evaluations": result.evaluations,
        "batches": {"run": result.runs[0], "without_giving_up": result.runs[1]},
        "pieces": result.pieces,
        "seconds": result.seconds,
    }


def side_dict(side: Side, name: str) -> dict[str, Any]:
    """Return the scores of one set of samples, each change with its 95 % interval.

    Args:
        side: The scores.
        name: What the model is called afterwards.
    """
    before, after = side.similarities
    return {
        "samples": side.samples,
        "float": side.before.before,
        "before": side.before.after,
        name: side.after.after,
        "loss_before": _change(side.before),
        f"loss_{name}": _change(side.after),
        "gain": _change(side.gain),
        "sqnr_db": {"before": number(before.sqnr), name: number(after.sqnr)},
        "cosine": {"before": number(before.cosine), name: number(after.cosine)},
    }


def _change(pair: Paired) -> dict[str, Any]:
    """Return a difference and half the width of its interval."""
    return {"difference": pair.difference, "interval95": number(pair.half_width)}


def _move_dict(move: Move) -> dict[str, Any]:
    """Return what became of one tensor."""
    return {
        "name": move.name,
        "kind": move.kind,
        "before": dict(move.before),
        "after": dict(move.after),
        "gain": move.gain,
        "evaluations": move.evaluations,
    }
