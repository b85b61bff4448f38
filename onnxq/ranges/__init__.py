"""Range algorithms: statistics to the interval a tensor's codes shall cover."""

from typing import Any

from onnxq.ranges.adaptive_kl import AdaptiveKl
from onnxq.ranges.entropy import Entropy
from onnxq.ranges.given import Given
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.ranges.percentile import Percentile
from onnxq.ranges.plain_kl import PlainKl
from onnxq.registry import build, find
from onnxq.types import RangeAlgorithm

RANGES = (MinMax, Percentile, Mse, Entropy, OutlierVar, AdaptiveKl, PlainKl)
ASKED = (*RANGES, Given)  # the last one chooses nothing


def range_algorithm(name: str, **options: Any) -> RangeAlgorithm:
    """Return the range algorithm of a name, set up with options.

    Raises:
        UnknownNameError: No such algorithm, or no such option.
        RecipeError: An option has a value the algorithm refuses.

    Example:
        >>> range_algorithm("percentile", percentile=99.9)
        Percentile(percentile=99.9)
    """
    algorithm: RangeAlgorithm = build(find("ranges", name, ASKED), options, f"range {name!r}")
    return algorithm
