"""Channel means of what layers read, for many ways to quantize it, observed as rarely as may be."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxq.correction import means_of
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime
from onnxq.parameters import key_of
from onnxq.types import Array, QuantParams

Way = tuple[str, bytes]  # a tensor, and how it is quantized


class Means:
    """Means that were observed so far."""

    def __init__(self, model: Model, samples: Sequence[Batch], runtime: Runtime) -> None:
        """Begin with none.

        Args:
            model: The prepared model.
            samples: What to observe it on.
            runtime: How to run it.
        """
        self._model, self._samples, self._runtime = model, samples, runtime
        self._known: dict[Way, tuple[Array, Array]] = {}

    def of(
        self,
        read: Mapping[str, str],
        activations: Mapping[str, QuantParams],
        foreseen: Callable[[str], Iterable[QuantParams]],
    ) -> dict[str, tuple[Array, Array]]:
        """Return what `onnxq.correction.input_means` does.

        Args:
            read: Of `onnxq.correction.corrected_inputs`.
            activations: Parameters by tensor name.
            foreseen: Other ways to quantize a tensor, to be observed in the same run.
        """
        ways = {output: _way(name, activations.get(name)) for output, name in read.items()}
        if any(way not in self._known for way in ways.values()):
            names = dict.fromkeys(read.values())
            self._observe({name: [activations.get(name), *foreseen(name)] for name in names})
        return {output: self._known[way] for output, way in ways.items()}

    def _observe(self, wanted: Mapping[str, Sequence[QuantParams | None]]) -> None:
        """Observe what is not known."""
        new: dict[str, dict[Way, QuantParams | None]] = {}
        for name, ways in wanted.items():
            each = {_way(name, params): params for params in ways}
            fresh = {way: params for way, params in each.items() if way not in self._known}
            new |= {name: fresh} if fresh else {}
        asked = {name: list(fresh.values()) for name, fresh in new.items()}
        found = means_of(self._model, asked, self._samples, self._runtime)
        for name, fresh in new.items():
            self._known |= dict(zip(fresh, found[name], strict=True))


def _way(name: str, params: QuantParams | None) -> Way:
    """Return what tells a quantized tensor from others."""
    return name, b"" if params is None else key_of(params)
