"""What a search has found so far, in a file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.errors import CalibrationError
from onnxq.files import staged

log = logging.getLogger(__name__)


class Checkpoint:
    """What a search has found so far, in a file."""

    def __init__(self, path: Path | None, run: str, *, resume: bool, steps: str) -> None:
        """Name the file and what the search is about.

        Args:
            path: The file; None for none.
            run: Differs between searches that have nothing to do with each other.
            resume: Go on from the file, if it is there.
            steps: What is counted, in the plural.
        """
        self._path, self._resume, self._run, self._steps = path, resume, run, steps

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where a search begins anew.

        Raises:
            CalibrationError: The file is of another search, or none.
        """
        if self._path is None or not self._path.exists():
            if self._path is not None and self._resume:
                log.warning("there is no %s to go on from: from the beginning", self._path)
            return None
        if not self._resume:
            log.warning("%s is left from another run, and will be replaced", self._path)
            return None
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            same = found["run"] == self._run
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{self._path}: no checkpoint of onnxq") from error
        if not same:
            raise CalibrationError(
                f"{self._path}: of another model, table, recipe, data or setting; delete it to "
                "begin anew"
            )
        log.warning("going on after %d %s from %s", found["done"], self._steps, self._path)
        return dict(found)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved."""
        if self._path is not None:
            with staged(self._path) as temporary:
                temporary.write_text(json.dumps({"run": self._run, **state}), encoding="utf-8")
