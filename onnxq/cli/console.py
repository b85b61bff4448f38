"""What a person sees: results, progress, warnings and errors."""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from onnxq.errors import OnnxqError

INTERRUPTED = 130
NOTHING = "interrupted: nothing was written"
WIDEST = 100  # columns of a picture


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors of a command into one line and the documented exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except OnnxqError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            print(f"interrupted: {error}" if str(error) else NOTHING, file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return run


class Screen:
    """Prints for a person, and JSON for a machine.

    With ``--json -`` standard output carries the JSON only; everything else goes to standard
    error.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        to: str | None = None,
        beside: Iterable[Path] = (),
    ) -> None:
        """Set up printing and the log.

        Args:
            quiet: Only warnings and errors.
            verbose: Details too.
            to: Where the JSON goes: a file, ``-``, or None for nowhere.
            beside: Other files of the command, which the JSON must not replace.

        Raises:
            OutputError: It would.
        """
        from rich.console import Console  # noqa: PLC0415  slow to load

        if to not in (None, "-"):
            from onnxq.files import check_target  # noqa: PLC0415

            check_target(Path(str(to)), beside)
        self._json = to
        self._lines: Any = None
        self._console = Console(stderr=to == "-", quiet=quiet, highlight=False, soft_wrap=True)
        handler = _Handler(Console(stderr=True, highlight=False, soft_wrap=True))
        log = logging.getLogger("onnxq")
        log.handlers[:] = [handler]
        log.setLevel(logging.INFO if verbose else logging.WARNING)
        log.propagate = False

    @property
    def unicode(self) -> bool:
        """Whether what is printed may hold more than ASCII."""
        return not self._console.options.ascii_only

    @property
    def width(self) -> int:
        """How many columns a picture may take; the screen's, and never more than 100."""
        return min(self._console.width, WIDEST) if self._console.is_terminal else WIDEST

    @property
    def is_terminal(self) -> bool:
        """Whether a person is looking."""
        return self._console.is_terminal

    def print(self, *things: Any) -> None:
        """Print text or anything rich can show."""
        self._console.print(*things)

    def json(self, content: Any) -> None:
        """Write the machine-readable result where it was asked for.

        Raises:
            OutputError: The file cannot be written.
        """
        if self._lines is not None:
            self.event(content)
            return
        if self._json is None:
            return
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if self._json == "-":
            sys.stdout.write(text)
            return
        from onnxq.files import staged  # noqa: PLC0415

        with staged(Path(self._json)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def events(self) -> Iterator[None]:
        """Write JSON as lines for a while: what happens, as it happens; the result is the last.

        Raises:
            OutputError: The file cannot be written.
        """
        if self._json in (None, "-"):
            self._lines = sys.stdout if self._json else None
            yield
            return
        with self._writing():
            self._lines = Path(str(self._json)).open("w", encoding="utf-8")  # noqa: SIM115
        try:
            yield
        finally:
            lines, self._lines = self._lines, None
            with self._writing():
                lines.close()

    def event(self, content: Any) -> None:
        """Write one line of JSON, if `events` are written."""
        if self._lines is not None:
            with self._writing():
                self._lines.write(json.dumps(content, ensure_ascii=False) + "\n")
                self._lines.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong with the JSON into one line."""
        from onnxq.errors import OutputError  # noqa: PLC0415

        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._json}: {error.strerror or error}") from error

    @contextmanager
    def live(self) -> Iterator[Callable[[Any], None]]:
        """Show something that changes, on a terminal.

        Yields:
            To be called with what is to be shown from now on.
        """
        from rich.live import Live  # noqa: PLC0415

        if not self.is_terminal:
            yield lambda _: None
            return
        with Live(console=self._console, transient=True, refresh_per_second=4) as shown:
            yield shown.update

    @contextmanager
    def progress(self, stage: str) -> Iterator[Callable[[Any], None]]:
        """Show how far a stage is: a bar on a terminal, one line at its end elsewhere.

        Yields:
            To be called with each `onnxq.results.Progress`.
        """
        from rich import progress as bars  # noqa: PLC0415

        done = 0
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.completed:.0f}/{task.total} samples"),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as bar:
            task = bar.add_task(stage, total=None, rate="")

            def report(progress: Any) -> None:
                nonlocal done
                done = progress.done
                speed = bar.tasks[0].speed
                rate = f"{speed:.1f} samples/s" if speed else ""
                bar.update(task, completed=done, total=progress.total, rate=rate)

            yield report
            seconds = bar.tasks[0].elapsed or 0.0
        speed = f", {done / seconds:.1f} samples/s" if seconds else ""
        self.print(f"{stage}: {done} samples in {seconds:.1f} s{speed}")

    @contextmanager
    def steps(self, stage: str, unit: str) -> Iterator[Callable[[Any], None]]:
        """Show how far a search is: a bar with the score on a terminal, nothing elsewhere.

        Yields:
            To be called with values that have ``done``, ``total``, ``name`` and ``score``.
        """
        from rich import progress as bars  # noqa: PLC0415

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]}"),
            bars.TextColumn("{task.fields[score]}"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[name]}", markup=False),
        )
        with bars.Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as bar:
            task = bar.add_task(stage, total=None, unit=unit, score="", name="")

            def report(progress: Any) -> None:
                shown = {"score": f"{progress.score:.5f}", "name": progress.name}
                bar.update(task, completed=progress.done, total=progress.total, **shown)

            yield report


class _Handler(logging.Handler):
    """Shows log records as one line each."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``warning: …``, or the bare text of what is only information."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._console.print(f"{prefix}{record.getMessage()}", markup=False)
