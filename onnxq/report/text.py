"""Results for people: lines and rich tables."""

import math
from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from onnxq.errors import LISTED
from onnxq.metrics.classification import Paired
from onnxq.numerics.tiles import is_blocked
from onnxq.pipeline import WARN_COSINE
from onnxq.reordering import JOINT
from onnxq.report.layers import advice
from onnxq.results import SIDECARS, Compared, Quantized

RESCALING = ("equalize", "smooth")  # passes that are asked for
SHOWN = 3  # reasons of a pass
SPARSE = 0.5  # of the cells of its arrays, below which a layer is named
SLOWER = 1.1  # latency ÷ float from which a result is called slower; below is noise
DECODED = (  # what to do where weights alone are quantized
    "weights are made floats in every run; the onnxruntime session option "
    "session.disable_quant_qdq=1 does that once, when it loads the file"
)


def quantized_lines(result: Quantized) -> Iterator[str]:
    """Yield what ``quantize`` did, line by line."""
    plan = result.plan
    quantized = Counter(node.op for node in plan.nodes.values() if node.quantized)
    counts = ", ".join(f"{count} {op}" for op, count in quantized.most_common())
    yield f"quantized on {plan.target.name}: {counts}"
    yield from _left_float(result)
    if result.emitted.raised:
        raised = sum(result.emitted.raised.values())
        yield f"{raised} weight scales were raised so that their biases fit int32"
    yield from _fixed_point(result)
    yield from _rescaled(result)
    yield from _reordered(result)
    yield from _crossbar(result)
    pairs, total = result.emitted.saturating
    if pairs and plan.target.name == "cpu":
        yield (
            f"on x86 CPUs without VNNI {100 * pairs / total:.1f} % of the weight pairs can "
            "saturate: --reduce-range avoids it there"
        )
    yield from _fitted(result)
    yield from _reconstructed(result)
    if result.repairs.corrected:
        measured = plan.recipe.bias_correction == "empirical"
        how = ", measured in the quantized model" if measured else ""
        yield f"{result.repairs.corrected} biases take up the mean error of their layer{how}"
    yield from _fused(result)
    before, after = result.opset
    raised_opset = f"opset {before} → {after}" if before != after else f"opset {after}"
    float_size, size = result.sizes
    yield (
        f"{result.path}: {size / 1e6:.2f} MB, {size / float_size:.2f} × float; {raised_opset}, "
        f"onnxruntime {result.onnxruntime} or newer"
    )
    simulated = plan.target.tiled  # the file stands for a chip, its time here says nothing
    if result.latency is not None and result.latency.ratio > SLOWER and not simulated:
        cure = "--exclude what does not pay (onnxq inspect --plan), or keep it float"
        if all(node.weight_only for node in plan.nodes.values() if node.quantized):
            cure = DECODED
        yield (
            f"warning: slower than the float model here, {result.latency.ratio:.2f} × its time for "
            f"one sample: {cure}"
        )
    yield from _check(result)


def _fixed_point(result: Quantized) -> Iterator[str]:
    """Yield where the positions are, and which accumulators are too narrow."""
    if result.emitted.table is not None and result.plan.target.power_of_two:
        count = len(result.emitted.table["tensors"])
        yield f"positions of {count} activations: {result.path}{SIDECARS[0]}"
    over = result.emitted.overflowing
    if over:
        shown = ", ".join(over[:LISTED])
        yield f"warning: the int32 accumulators of {len(over)} nodes can overflow: {shown}"


def _rescaled(result: Quantized) -> Iterator[str]:
    """Yield what equalization and smoothing did, and most frequent reasons why not."""
    for report in result.passes:
        if report.name not in RESCALING:
            continue
        looked = f" ({report.note})" if report.note else ""
        yield f"{report.name}: {len(report.changed)} nodes rescaled{looked}"
        reasons = Counter(reason for _, reason in report.skipped)
        for reason, count in reasons.most_common(SHOWN):
            yield f"{report.name}: {count} × not: {reason}"
        if len(reasons) > SHOWN:
            yield f"{report.name}: {len(reasons) - SHOWN} other reasons: onnxq quantize --json"


def _reordered(result: Quantized) -> Iterator[str]:
    """Yield what was put into another order, and what that is expected to bring."""
    moved = result.reordering
    if moved is None:
        return
    if moved.refused:
        yield f"warning: the channels keep their order: {moved.refused}"
        return
    if moved.nothing:
        yield f"reordered by {moved.how}: nothing can change places: {moved.nothing}"
        return
    what = "channels" if moved.mode == JOINT else "rows and columns"
    change = 100 * (moved.after / moved.before - 1) if moved.before else 0.0
    yield (
        f"reordered by {moved.how}: {moved.channels} {what} in {moved.families} families; noise of "
        f"the tiles {change:+.1f} %, as predicted"
    )


def _fused(result: Quantized) -> Iterator[str]:
    """Yield how exactly onnxruntime computes with blocks it takes into its operator."""
    nodes = result.plan.nodes.values()
    fused = sum(any(is_blocked(w.spec.tile) for w in node.weights) for node in nodes)
    if fused:
        yield (
            f"onnxruntime makes MatMulNBits of {fused} MatMul, at accuracy level 4: what they read "
            "is rounded to 8 bits a row; the session option "
            "session.qdq_matmulnbits_accuracy_level=1 prevents that"
        )


def _reconstructed(result: Quantized) -> Iterator[str]:
    """Yield what rounding weights for their layer's output brought on the samples it saw."""
    rounded = result.repairs.used.rounded.values()
    if not result.plan.recipe.reconstruct:
        return
    count = max(len(rounded), 1)
    before = 100 * sum(each.before for each in rounded) / count
    after = 100 * sum(each.after for each in rounded) / count
    yield (
        f"{len(rounded)} weights rounded for what their layer writes: noise {before:.2f} → "
        f"{after:.2f} % on average, of the samples it was done on"
    )


def _fitted(result: Quantized) -> Iterator[str]:
    """Yield how many ranges were moved, and what that did to the layers that read them."""
    if result.repairs.fits is None:
        return
    fits = [fit for fit in result.repairs.fits.values() if fit.before > 0]
    moved = sum(fit.moved for fit in fits)
    line = f"{moved} of {len(fits)} activation ranges fitted to the layers that read them"
    if moved:
        ratios = [math.log10(max(fit.after / fit.before, 1e-6)) for fit in fits]
        change = 100 * (10 ** (sum(ratios) / len(ratios)) - 1)
        line += f": their noise {change:+.1f} % on average"
    yield line


def _crossbar(result: Quantized) -> Iterator[str]:
    """Yield how many arrays the weights take, how full these are, and where the map is."""
    table = result.emitted.table
    if table is None or not result.plan.target.tiled:
        return
    size = "x".join(map(str, table["array"]))
    share = f"{100 * table['utilisation']:.1f} % of their cells used"
    yield f"weights on {table['arrays']} arrays of {size}, {share}"
    worst = min(table["layers"], key=lambda layer: layer["utilisation"])
    if worst["utilisation"] < SPARSE:
        share = f"{100 * worst['utilisation']:.2g} % of {worst['arrays']} x {size}"
        yield f"the emptiest: {worst['name']}, {share}"
    if table["index_bits"]:
        yield f"index tables of rows and columns: {table['index_bits'] / 8192:.1f} KiB"
    paths = [f"{result.path}{suffix}" for suffix in SIDECARS]
    yield f"map of the tiles: {paths[0]}, their codes and scales: {paths[1]}"


def _left_float(result: Quantized) -> Iterator[str]:
    """Yield what stays float among the operators the target could quantize."""
    ops = result.plan.target.ops
    reasons = Counter(
        (node.op, node.reason)
        for node in result.plan.nodes.values()
        if not node.quantized and node.op in ops and ops[node.op].role == "compute"
    )
    for (op, reason), count in reasons.most_common():
        yield f"left float: {count} {op}: {reason}"


def _check(result: Quantized) -> Iterator[str]:
    """Yield how near the result is to the float model on the kept samples."""
    if result.check is None:
        yield "not checked against the float model: the table keeps no samples"
        return
    for output in result.check.outputs:
        near = output.similarity
        yield (
            f"{output.name}: cosine {near.cosine:.5f}, SQNR {near.sqnr:.1f} dB "
            f"on {result.check.samples} calibration samples"
        )
        if near.samples and not near.cosine >= WARN_COSINE:
            yield (
                f"warning: {output.name} is far from the float model (cosine below {WARN_COSINE})"
            )
    if not result.check.cosine >= WARN_COSINE:
        yield from advice(result.layers, result.plan)


def compared_tables(result: Compared) -> Iterator[Table]:
    """Yield the comparison of the outputs, then accuracies, size and time."""
    comparison = result.comparison
    table = Table(title=f"{comparison.samples} samples", title_justify="left")
    for heading in ("output", "cosine", "worst cosine", "SQNR dB", "max |Δ|", "agreement"):
        table.add_column(heading, justify="left" if heading == "output" else "right")
    for output in comparison.outputs:
        near = output.similarity
        agreement = "–" if output.agreement is None else f"{100 * output.agreement:.2f} %"
        table.add_row(
            output.name,
            f"{near.cosine:.6f}",
            f"{near.cosine_min:.6f}",
            f"{near.sqnr:.2f}",
            f"{near.max_abs:.4g}",
            agreement,
        )
    yield table
    yield _costs(result)


def _costs(result: Compared) -> Table:
    """Return accuracies, size and time of both models side by side."""
    table = Table()
    for heading in ("", "float", "quantized", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, accuracy in (("top-1", result.comparison.top1), ("top-5", result.comparison.top5)):
        if accuracy is not None:
            table.add_row(name, *_accuracy_row(accuracy))
    if (scored := result.comparison.metric) is not None:
        table.add_row(scored.name, *_score_row(scored.paired))
    before, after = result.sizes
    table.add_row(
        "size", f"{before / 1e6:.2f} MB", f"{after / 1e6:.2f} MB", f"{after / before:.2f} ×"
    )
    if result.latency is not None:
        timed = result.latency
        table.add_row(
            f"latency, batch {timed.batch_size}, {timed.threads} thread(s)",
            f"{timed.float_ms:.2f} ms",
            f"{timed.quantized_ms:.2f} ms",
            f"{timed.ratio:.2f} ×",
        )
    return table


def _score_row(score: Paired) -> tuple[str, str, str]:
    """Return float, quantized and the difference with its 95 % interval, if there is one."""
    known = math.isfinite(score.half_width)
    width = f" ± {score.half_width:.5f}" if known else ""
    return f"{score.before:.5f}", f"{score.after:.5f}", f"{score.difference:+.5f}{width}"


def _accuracy_row(accuracy: Paired) -> tuple[str, str, str]:
    """Return float, quantized and the paired difference with its 95 % interval."""
    return (
        f"{100 * accuracy.before:.2f} %",
        f"{100 * accuracy.after:.2f} %",
        f"{100 * accuracy.difference:+.2f} ± {100 * accuracy.half_width:.2f} points",
    )
