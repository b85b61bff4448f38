"""What building a model may draw on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fetch.packages import environment

# The versions the figures of the benchmark are made with.
EXPORT_REQUIREMENTS = ("torch==2.13.0", "onnx", "numpy", "safetensors", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """Where things come from and go to.

    Attributes:
        cache: The benchmark's cache.
        imagenet: Folder of photographs, the number in a file's name its class; or None.
        cifar: npz file with CIFAR-10 pictures, or None.
        cifar_model: A float model for them, or None.
    """

    cache: Path
    imagenet: Path | None = None
    cifar: Path | None = None
    cifar_model: Path | None = None

    def export_python(self) -> Path:
        """Return the Python of an environment with PyTorch, which onnxq's own never gets."""
        return environment(self.cache / ".env-export", EXPORT_REQUIREMENTS)


Builder = Callable[[Ingredients, Path], None]
