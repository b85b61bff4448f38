"""What a metric is given, what it gives back, and how it words what does not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from onnxq.errors import CalibrationError, RecipeError, UnknownNameError
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One batch: what a model answered, and what it should have.

    Attributes:
        outputs: The tensors the model to be judged returned, by name.
        reference: The float model's, the same names.
        labels: The ``label…`` arrays of the data.
        samples: How many samples the batch holds.
        metadata: The float model's metadata entries.
    """

    outputs: Mapping[str, Array]
    reference: Mapping[str, Array]
    labels: Mapping[str, Array] = field(default_factory=dict)
    samples: int
    metadata: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """How good answers are, higher is better.

    A metric is a frozen dataclass; its fields are the options. It is asked batch by batch for
    *evidence*: one small item a sample, all that is kept of the outputs. Items that are numbers
    are the samples' scores. Any subset of the items has a score.

    Two class attributes may tell a search more. ``best``: no score is higher, of a sample neither;
    candidates that cannot win are given up sooner. ``smooth``: scores move with every change, so
    that a gain counts in relation to what is missing from the best, and not as such.

    Attributes:
        name: What people type after ``--metric``.
    """

    @property
    def name(self) -> str:
        """The name."""
        ...

    def evidence(self, answers: Answers) -> Sequence[Any]:
        """Return one item a sample.

        Raises:
            RecipeError: The metric does not fit the model's outputs.
            CalibrationError: The labels are missing or do not fit.
        """
        ...

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the score of samples; for scores of samples this is their mean."""
        ...


def output_of(metric: str, outputs: Mapping[str, Array], name: str | None) -> tuple[str, Array]:
    """Return the output a metric looks at, and its name.

    Args:
        metric: The metric's name, for the message.
        outputs: What the model returned.
        name: The output's name; None for the first.

    Raises:
        RecipeError: There is no such output.
    """
    if not outputs:
        raise RecipeError(f"metric {metric!r}: the model has no output that is a tensor")
    name = next(iter(outputs)) if name is None else str(name)  # a flag's 495 is a number
    if name not in outputs:
        raise UnknownNameError(f"output for metric {metric!r}", name, outputs)
    return name, outputs[name]


def misfit(metric: str, wanted: str, output: tuple[str, Array]) -> RecipeError:
    """Return the error for an output a metric has no use for."""
    name, array = output
    return RecipeError(
        f"metric {metric!r} wants {wanted}; output {name!r} is {array.dtype} of shape {array.shape}"
    )


def label_of(metric: str, answers: Answers, key: str, samples: int) -> Array:
    """Return the labels of a batch.

    Args:
        metric: The metric's name, for the message.
        answers: The batch.
        key: The labels' name in the data.
        samples: How many samples the model answered.

    Raises:
        CalibrationError: The data has no such labels, or not one a sample.
    """
    if key not in answers.labels:
        have = ", ".join(sorted(answers.labels)) or "no labels"
        raise CalibrationError(
            f"metric {metric!r} needs the labels {key!r}; the data has {have}: add an array of "
            "that name, or give --labels for images"
        )
    label = answers.labels[key]
    if label.shape[:1] != (samples,):
        raise CalibrationError(
            f"metric {metric!r}: {key!r} has shape {label.shape}, the model answered {samples} "
            "samples: labels are wanted one a sample"
        )
    return label


def class_indices(metric: str, key: str, label: Array, classes: int) -> Array:
    """Return labels that are class indices, checked.

    Args:
        metric: The metric's name, for the message.
        key: The labels' name.
        label: Any shape.
        classes: How many classes the model knows.

    Raises:
        CalibrationError: They are no integers, or a value is no class.
    """
    if label.dtype.kind not in "iu":
        raise CalibrationError(
            f"metric {metric!r}: {key!r} holds {label.dtype}, class indices are integers"
        )
    odd = label[(label < 0) | (label >= classes)]
    if odd.size:
        raise CalibrationError(
            f"metric {metric!r}: {key!r} holds {odd.flat[0]}, the output has the classes "
            f"0 to {classes - 1}"
        )
    return label


def share(name: str, value: float) -> None:
    """Refuse an option that is not between 0 and 1.

    Raises:
        ValueError: It is not.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}")
