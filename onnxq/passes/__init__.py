"""Float to float: each pass keeps the model's function and says what it changed."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What a pass did.

    Attributes:
        name: The pass.
        changed: Labels of the nodes it changed or removed.
        skipped: Label and reason for each place that looked right but was refused.
        note: What else there is to say, e.g. what it looked at.
    """

    name: str
    changed: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = field(default=())
    note: str = ""

    @property
    def modified(self) -> bool:
        """Whether the model is another one than before."""
        return bool(self.changed)
