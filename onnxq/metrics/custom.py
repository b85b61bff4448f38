"""A metric of the user's own: ``module:function``."""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError, UsageError
from onnxq.metrics.answers import Answers


@dataclass(frozen=True)
class Part:
    """The score of several samples together.

    Attributes:
        score: Their score.
        samples: How many.
    """

    score: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class Custom:
    """A function of one batch behind the metric protocol.

    The function gets a dict of outputs and one of labels, arrays by name, and returns one score a
    sample, or one number for the batch; numbers are averaged weighted by the batches' samples.

    Attributes:
        name: ``module:function``.
        function: The function.
        options: Further keywords it gets.
    """

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    def evidence(self, answers: Answers) -> Sequence[float | Part]:
        """Return what the function says."""
        try:
            said = self.function(dict(answers.outputs), dict(answers.labels), **self.options)
            found = np.asarray(said, np.float64)
        except Exception as error:
            raise CalibrationError(f"metric {self.name} failed: {_worded(error)}") from error
        if said is None:
            raise CalibrationError(f"metric {self.name} returned nothing")
        if found.ndim == 0:
            return [Part(float(found), answers.samples)]
        if found.shape != (answers.samples,):
            raise CalibrationError(
                f"metric {self.name} returned shape {found.shape} for {answers.samples} samples: "
                "one score a sample or one number is wanted"
            )
        scores: list[float | Part] = found.tolist()
        return scores

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean over the samples."""
        parts = [item if isinstance(item, Part) else Part(item, 1) for item in evidence]
        total = sum(part.samples for part in parts)
        return sum(part.score * part.samples for part in parts) / total


def load(spec: str, options: Mapping[str, Any]) -> Custom:
    """Load a metric of one's own; this runs its module's code.

    Args:
        spec: ``module:function``; the module must be on the import path.
        options: Further keywords of the function.

    Raises:
        UsageError: It cannot be imported, or is no function.
    """
    module_name, _, function_name = spec.partition(":")
    if not (module_name and function_name.isidentifier()):
        raise UsageError(f"metric {spec!r} does not read module:function")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]:
            raise UsageError(
                f"metric {spec}: no module {module_name!r} on the import path: name its folder "
                "with --import-path"
            ) from error
        raise UsageError(f"metric {spec}: importing failed: {_worded(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"metric {spec}: no function {function_name!r} in {module_name!r}{hint}")
    return Custom(name=spec, function=function, options=dict(options))


def _worded(error: Exception) -> str:
    """Word an exception of the user's code in one line, with its type."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
