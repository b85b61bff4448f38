"""Readers of one's own: ``module:Class``, in onnxq's protocol or in onnxruntime's.

onnxruntime's ``CalibrationDataReader`` gives feeds by ``get_next()`` until it returns None, and
only once; a new instance is made for every iteration.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from calib_readers._common import Input, did_you_mean, one_line

Make = Callable[[], Any]

_END = object()


class CustomReader:
    """A user's class behind the reader protocol; its failures become one line naming it.

    Attributes:
        name: ``module:Class``.
        stackable: The class's, False if it says nothing.
        notes: The instance's, if it has any.
    """

    def __init__(self, spec: str, make: Make) -> None:
        """Make the first instance.

        Args:
            spec: ``module:Class``.
            make: Makes an instance.

        Raises:
            ValueError: Making it failed, or it is no reader.
        """
        self.name = spec
        self._make = make
        self._fresh: Any = self._new()
        self.stackable = bool(getattr(self._fresh, "stackable", False))
        self.notes = _notes(getattr(self._fresh, "notes", ()))
        self._pulled = callable(getattr(self._fresh, "get_next", None))
        if not self._pulled and not hasattr(self._fresh, "__iter__"):
            raise ValueError(f"{spec}: no reader: it has neither __iter__ nor get_next")
        self._kept = None if self._pulled or hasattr(self._fresh, "__next__") else self._fresh

    def __len__(self) -> int:
        """Return the number of samples.

        Raises:
            TypeError: The class does not say.
        """
        if self._kept is None or not hasattr(self._kept, "__len__"):
            raise TypeError(f"{self.name} does not say how many samples it has")
        return len(self._kept)

    def __bool__(self) -> bool:
        """Be true also when the length is not known."""
        return True

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Yield feeds from the beginning, of a new instance when one serves only once."""
        feeds = self._feeds(self._instance())
        while True:
            try:
                feed = next(feeds, _END)
            except Exception as error:
                raise ValueError(f"{self.name}: reading failed: {_kind(error)}") from error
            if feed is _END:
                return
            yield self._checked(feed)

    def _checked(self, feed: Any) -> Mapping[str, Any]:
        if isinstance(feed, Mapping):
            return feed
        kind = type(feed).__name__
        raise ValueError(f"{self.name}: a feed must be a dict of arrays, got {kind}")

    def _feeds(self, instance: Any) -> Iterator[Any]:
        """Yield what the instance gives; in onnxruntime's protocol None is the end."""
        if not self._pulled:
            yield from instance
            return
        while (feed := instance.get_next()) is not None:
            yield feed

    def _instance(self) -> Any:
        """Return the instance to iterate: the first one is not made in vain."""
        if self._kept is not None:
            return self._kept
        instance, self._fresh = self._fresh, None
        return self._new() if instance is None else instance

    def _new(self) -> Any:
        try:
            return self._make()
        except Exception as error:
            raise ValueError(f"{self.name}: making the reader failed: {_kind(error)}") from error


def load_custom(
    spec: str, inputs: Sequence[Input], options: Mapping[str, Any] | None = None
) -> CustomReader:
    """Load a user's reader; this runs its code.

    Args:
        spec: ``module:Class``; the module must be on the import path.
        inputs: The model's inputs, given to the constructor if it names ``inputs``. A parameter
            ``source`` likewise gets None.
        options: Further keywords of the constructor, passed as they are.

    Returns:
        An object in the reader protocol.

    Raises:
        ValueError: It cannot be imported or made, or is no reader.
    """
    cls = _loaded(spec)
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):  # some classes in C have none
        signature = inspect.Signature()
    offered: dict[str, Any] = {"source": None, "inputs": inputs}
    keywords = {key: value for key, value in offered.items() if key in signature.parameters}
    keywords.update(options or {})
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise ValueError(f"{spec}{signature}: {one_line(error)}") from error
    return CustomReader(spec, lambda: cls(**keywords))


def _loaded(spec: str) -> Any:
    module_name, colon, class_name = spec.partition(":")
    if not (module_name and colon and class_name.isidentifier()):
        raise ValueError(f"{spec!r} does not read module:Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]:
            raise ValueError(f"{spec}: no module {module_name!r} on the import path") from error
        raise ValueError(f"{spec}: importing failed: {_kind(error)}") from error
    cls = getattr(module, class_name, None)
    if callable(cls):
        return cls
    hint = did_you_mean(class_name, (name for name in vars(module) if not name.startswith("_")))
    raise ValueError(f"{spec}: no class {class_name!r} in module {module_name!r}{hint}")


def _kind(error: Exception) -> str:
    """Word an exception of the user's code, with its type, which is half of what it says."""
    return f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__


def _notes(notes: Any) -> tuple[str, ...]:
    lines = [notes] if isinstance(notes, str) else notes
    return tuple(" ".join(str(line).split()) for line in lines)
