"""How near one output is to another, and to the labels."""

from typing import Any

from onnxq.metrics.answers import Metric
from onnxq.metrics.classification import Classification
from onnxq.metrics.detection import Detection
from onnxq.metrics.fitness import Fitness
from onnxq.metrics.recognition import Recognition
from onnxq.metrics.segmentation import Segmentation
from onnxq.metrics.unlabelled import Cosine, Noise, RelativeEntropy
from onnxq.registry import build, find

METRICS = (
    Classification,
    Segmentation,
    Detection,
    Recognition,
    Cosine,
    Noise,
    RelativeEntropy,
    Fitness,
)


def metric(name: str, **options: Any) -> Metric:
    """Return the metric of a name, set up with options.

    Raises:
        UnknownNameError: No such metric, or no such option.
        RecipeError: An option has a value the metric refuses.

    Example:
        >>> metric("classification", weight=1)
        Classification(weight=1, k=5, output=None)
    """
    found: Metric = build(find("metrics", name, METRICS), options, f"metric {name!r}")
    return found
