"""What annealing did, for people and for machines."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from onnxq.report.plain import quantized_dict
from onnxq.report.tuning import side_dict, sides_table
from onnxq.search.anneal import Annealed


def annealed_tables(result: Annealed) -> Iterator[Table | str]:
    """Yield the scores, and what the search cost."""
    sides = {"annealed on": result.kept, "not annealed on": result.held}
    yield sides_table(result.metric, "annealed", sides)
    ran, whole = result.runs
    rate = f", {result.swaps / result.seconds:.1f} swaps/s" if result.seconds else ""
    yield (
        f"{result.swaps} swaps in {result.seconds:.1f} s{rate}, {result.accepted} accepted; "
        f"{ran} of {whole} batches run; {result.pieces} pieces"
    )
    if not result.accepted:
        yield "no order was better than the one to begin with"
    elif not result.improved:
        yield "warning: the annealed model scored no better when written: it is in the first order"
    elif result.held.gain.difference < 0:
        yield "warning: the annealed model scores worse on the samples it was not annealed on"
    yield f"order: {result.order_path}"


def annealed_dict(result: Annealed) -> dict[str, Any]:
    """Return what `anneal` did as plain values."""
    return {
        "model": quantized_dict(result.quantized),
        "order": str(result.order_path),
        "metric": result.metric,
        "improved": result.improved,
        "scores": {"start": result.scores[0], "best": result.scores[1]},
        "annealed_on": side_dict(result.kept, "annealed"),
        "not_annealed_on": side_dict(result.held, "annealed"),
        "swaps": result.swaps,
        "accepted": result.accepted,
        "batches": {"run": result.runs[0], "without_giving_up": result.runs[1]},
        "pieces": result.pieces,
        "seconds": result.seconds,
    }
