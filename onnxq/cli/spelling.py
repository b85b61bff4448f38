"""Commands that take many flags as a few values."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def spelled(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that takes dataclasses of flags be called with each flag by name."""
    taken = signature(command).parameters.values()
    together: dict[str, Any] = {
        each.name: each.annotation for each in taken if is_dataclass(each.annotation)
    }
    parameters = [each for one in taken for each in _spelled(one)]

    @wraps(command)
    def run(**values: Any) -> None:
        flags = {
            name: kind(**{flag.name: values.pop(flag.name) for flag in fields(kind)})
            for name, kind in together.items()
        }
        command(**values, **flags)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _spelled(parameter: Parameter) -> list[Parameter]:
    """Return the parameters in whose place one stands."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
    return [
        Parameter(flag.name, Parameter.KEYWORD_ONLY, default=_default(flag), annotation=flag.type)
        for flag in fields(parameter.annotation)
    ]


def _default(flag: Field[Any]) -> Any:
    """Return the default of a flag, or that it has none."""
    return Parameter.empty if flag.default is MISSING else flag.default
