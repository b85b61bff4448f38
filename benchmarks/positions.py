"""How much the free choices of adaptive-kl matter, tensor by tensor: positions.py --help.

The share ε that bins beyond the clipping limit get, and the sharpness A of the weight curve, are
reconstructed. For every activation and weight of target fixed-point: where does the position
change, and what SQNR has it. Activations are measured on samples of ``calib.npz`` that calibration
did not see, weights on themselves; ``eval.npz`` is never opened.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import HERE, _models, _path, say
from benchmarks.fetch import MODELS
from benchmarks.ranges import MOST, Setting, _markdown, _noise, _runs, _usual, load
from onnxq import Recipe, calibration
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.metrics.similarity import decibel
from onnxq.numerics.affine import params_of
from onnxq.numerics.ends import ends
from onnxq.numerics.fixed_point import positions
from onnxq.numerics.observe import observe
from onnxq.plan import Plan
from onnxq.planning import plan_model
from onnxq.ranges import range_algorithm
from onnxq.recipe import TensorRule
from onnxq.types import Array, QuantParams, QuantSpec, RangeAlgorithm, TensorStats

TARGET = "fixed-point"
DEFAULT = "adaptive-kl"
SHARPNESS = {"A = ρ": 0.0, "A = ρ/b": -1.0}
EPSILONS = (1e-12, 1e-11, 1e-10, 1e-8, 1e-7, 1e-6)


def _contenders() -> dict[str, RangeAlgorithm]:
    """Return what is compared, by the name it has in the tables; the default is the first."""
    found = {DEFAULT: range_algorithm(DEFAULT)}
    for name, exponent in SHARPNESS.items():
        found[name] = range_algorithm(DEFAULT, sharpness=exponent)
    for epsilon in EPSILONS:
        found[f"ε = {epsilon:g}"] = range_algorithm(DEFAULT, epsilon=epsilon)
    for name in ("plain-kl", "mse", "minmax"):
        found[name] = range_algorithm(name)
    return found


CONTENDERS = _contenders()


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor at one width.

    Attributes:
        positions: What each contender chooses, by its name.
        sqnr: Of quantizing held-out values so, dB.
    """

    positions: Mapping[str, int]
    sqnr: Mapping[str, float]


def tensors(setting: Setting, bits: int) -> dict[str, Tensor]:
    """Let every contender choose the position of every tensor of a model.

    Args:
        setting: The model, calibrated.
        bits: Width of activations and weights.

    Returns:
        By name, with ``weight`` or ``activation`` before it.
    """
    rule = TensorRule(dtype=f"int{bits}")
    recipe = Recipe(target=TARGET, activations=rule, weights=rule)
    prepared, plan, _, _ = plan_model(setting.path, recipe, setting.table, None)
    return dict([*_weights(prepared, plan), *_activations(setting, prepared, plan)])


def _weights(model: Model, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that are not all zero."""
    constants = model.graph.tensors()
    for node in plan.nodes.values():
        for weight in node.weights:
            values = np.ascontiguousarray(io.array_of(constants[weight.name]), np.float32)
            if values.any():
                stats = replace(observe(values), ends=ends(values, ()))
                params = _params(stats, weight.spec)
                signal = float(np.square(values, dtype=np.float64).sum())
                noise = _noise(values.reshape(-1), params)
                yield f"weight {node.label} {weight.name}", _tensor(params, signal, noise)


def _activations(setting: Setting, model: Model, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Yield the activations that have parameters of their own."""
    seen = calibration.statistics(setting.table, model, plan)
    chosen, sources = {}, {}
    for name, activation in plan.activations.items():
        there = [each for each in activation.sources if each in setting.table.tensors]
        if activation.shares == name and there:
            sources[name] = there[0]
            chosen[name] = _params(_usual(seen[name]), activation.spec)
    signal = dict.fromkeys(chosen, 0.0)
    noise = {name: np.zeros(len(CONTENDERS)) for name in chosen}
    for values in _runs(model, list(dict.fromkeys(sources.values())), setting.held_out):
        for name, source in sources.items():
            array = np.ascontiguousarray(values[source], np.float32).reshape(-1)
            signal[name] += float(np.square(array, dtype=np.float64).sum())
            noise[name] += _noise(array, chosen[name])
    for name, params in chosen.items():
        yield f"activation {name}", _tensor(params, signal[name], noise[name])


def _params(stats: TensorStats, spec: QuantSpec) -> list[QuantParams]:
    """Let every contender choose."""
    return [
        params_of(each(stats, replace(spec, range=each)).within(*spec.bounds), spec)
        for each in CONTENDERS.values()
    ]


def _tensor(params: list[QuantParams], signal: float, noise: Array) -> Tensor:
    """Join what was chosen and what it costs."""
    ratios = [min(decibel(signal, float(each)), MOST) for each in noise]
    chosen = [int(positions(each)) for each in params]
    return Tensor(
        positions=dict(zip(CONTENDERS, chosen, strict=True)),
        sqnr=dict(zip(CONTENDERS, ratios, strict=True)),
    )


Found = Mapping[str, Mapping[int, Mapping[str, Tensor]]]


def changed(found: Found) -> str:
    """Return a Markdown table: in how many tensors another position is chosen, by width."""
    widths = list(next(iter(found.values())))
    lines = [["chosen by", *(f"{bits} bits" for bits in widths)]]
    lines.append(["---"] * len(lines[0]))
    for name in list(CONTENDERS)[1:]:
        cells = []
        for bits in widths:
            every = [tensor for model in found.values() for tensor in model[bits].values()]
            others = sum(t.positions[name] != t.positions[DEFAULT] for t in every)
            cells.append(f"{others} of {len(every)}")
        lines.append([name, *cells])
    return _markdown(lines)


def gains(found: Found, kind: str) -> str:
    """Return a Markdown table of the SQNR gained over the default, by width.

    Args:
        found: Model to width to tensor.
        kind: ``weight`` or ``activation``.

    Returns:
        The mean over the models of the mean over their tensors, with the worst tensor, dB.
    """
    widths = list(next(iter(found.values())))
    lines = [["chosen by", *(f"{bits} bits" for bits in widths)]]
    lines.append(["---"] * len(lines[0]))
    for name in list(CONTENDERS)[1:]:
        cells = []
        for bits in widths:
            differences = [
                [
                    tensor.sqnr[name] - tensor.sqnr[DEFAULT]
                    for label, tensor in model[bits].items()
                    if label.startswith(kind)
                ]
                for model in found.values()
            ]
            mean, worst = (
                np.mean([np.mean(each) for each in differences]),
                min(map(min, differences)),
            )
            cells.append(f"{mean:+.2f} ({worst:+.1f})")
        lines.append([name, *cells])
    return _markdown(lines)


def tables(found: Found) -> str:
    """Return all tables as Markdown."""
    parts = [f"## Other positions than {DEFAULT} chooses\n\n{changed(found)}"]
    parts += [f"## SQNR of {kind}s\n\n{gains(found, kind)}" for kind in ("activation", "weight")]
    return "\n".join(parts)


def main() -> int:
    """Measure what was asked for and write ``positions.json`` and ``positions.md``."""
    asked = _parser().parse_args()
    logging.disable(logging.WARNING)
    found: dict[str, dict[int, dict[str, Tensor]]] = {}
    out = asked.out or asked.cache
    out.mkdir(parents=True, exist_ok=True)
    for name in asked.models:
        if not (asked.cache / name / "model.onnx").exists():
            say(f"{name}: skipped: not in the cache: run.py --fetch builds it")
            continue
        say(f"{name}: calibrating")
        setting = load(name, asked.cache, asked.samples, Recipe(target=TARGET))
        say(f"{name}: choosing positions")
        found[name] = {bits: tensors(setting, bits) for bits in asked.bits}
        plain = {
            name: {
                bits: {label: vars(tensor) for label, tensor in each.items()}
                for bits, each in model.items()
            }
            for name, model in found.items()
        }
        (out / "positions.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        (out / "positions.md").write_text(tables(found), encoding="utf-8")
    print(tables(found) if found else "nothing was measured")
    return 0 if found else 2


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/positions.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", type=_models, default=list(MODELS), help="names, comma between them")
    add("--bits", type=_widths, default=(8, 6, 4), help="widths, comma between them (8,6,4)")
    add("--samples", type=int, default=64, help="calibration samples (64)")
    add("--cache", type=_path, default=HERE / ".cache", help="where the models are")
    add("--out", type=_path, help="where the tables go; default the cache")
    return parser


def _widths(text: str) -> tuple[int, ...]:
    """Read widths."""
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
