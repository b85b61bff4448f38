"""Where a search keeps what it has evaluated: a folder that survives kills and may be shared.

    FOLDER/search.json            what the search is about
    FOLDER/results/CODE.json      one evaluated strategy
    FOLDER/claims/CODE            one that is being evaluated, or was when its process died

A result is written beside its place and renamed, so it is there as a whole or not at all. A claim
is created exclusively, which works on network file systems too: of several processes one gets it.
A claim nobody has touched for a while is taken over. See docs/decisions/0006.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.errors import CalibrationError, OutputError
from onnxq.files import staged

log = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds after which a claim without a result is another's to take
SLOWER = 10.0  # times the slowest result so far is waited for one
BEGUN = ("results", "claims", ".search.json.")  # what another may have made before `search.json`


class Store:
    """A folder of results.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path, *, patience: float = PATIENCE) -> None:
        """Name a folder; nothing is read or written yet.

        Args:
            folder: Where the results are, or shall be.
            patience: Seconds after which a claim of another process no longer counts.
        """
        self.folder, self._patience = folder, patience
        self._known: dict[str, dict[str, Any]] = {}
        self._read: set[str] = set()

    def open(self, about: Mapping[str, Any], *, go_on: bool) -> int:
        """Begin a search in the folder, or go on with it.

        Args:
            about: What the search is about; what a folder is about must be the same.
            go_on: Whether there may be results already.

        Returns:
            How many results there are.

        Raises:
            CalibrationError: The folder is of another search, or none of ours.
            OutputError: There are results, and they are not to be used; or it cannot be written.
        """
        file, text = self.folder / "search.json", json.dumps(about, indent=1, sort_keys=True)
        try:
            found = file.read_bytes() if file.exists() else None
            if found is None and _is_foreign(self.folder):
                raise CalibrationError(f"{self.folder}: not empty, and no folder of a search")
            for each in ("results", "claims"):
                (self.folder / each).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: {error.strerror or error}") from error
        if found is None:
            with staged(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        elif (different := _differences(found, about)) is not None:
            raise CalibrationError(
                f"{self.folder}: of a search with another {different}; name another --store, or "
                "delete it to begin anew"
            )
        if not go_on:
            check_unused(self.folder)
        return len(self.results())

    def results(self) -> Mapping[str, dict[str, Any]]:
        """Return all results there are by now, by code, in the order they were first seen here."""
        for entry in sorted((self.folder / "results").iterdir()):
            if entry.suffix == ".json" and entry.name not in self._read:
                try:
                    found = json.loads(entry.read_text(encoding="utf-8"))
                    self._known.setdefault(found["code"], found)
                except OSError:  # a network may be slow to show it
                    continue
                except (ValueError, KeyError, TypeError):
                    log.warning("%s cannot be read: it will be evaluated again", entry)
                    entry.unlink(missing_ok=True)
                    continue
                self._read.add(entry.name)
        return self._known

    def result(self, code: str) -> dict[str, Any] | None:
        """Return the result of a strategy, if there is one."""
        if code not in self._known and (self._path(code)).exists():
            self.results()
        return self._known.get(code)

    def claim(self, code: str) -> bool:
        """Say whether this process shall evaluate a strategy: no other does, or has.

        Raises:
            OutputError: The claim cannot be written.
        """
        claim = self.folder / "claims" / _name(code)
        try:
            with claim.open("x", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
        except FileExistsError:
            if not self._is_taken_over(claim):
                return False
        except OSError as error:
            raise OutputError(f"{claim}: cannot be written: {error.strerror or error}") from error
        if self.result(code) is None:
            return True
        self.release(code)
        return False

    def release(self, code: str) -> None:
        """Give up a claim without a result."""
        (self.folder / "claims" / _name(code)).unlink(missing_ok=True)

    def forget_claims(self) -> None:
        """Give up all claims: the processes that made them are gone."""
        for claim in (self.folder / "claims").iterdir():
            claim.unlink(missing_ok=True)

    def add(self, result: Mapping[str, Any]) -> None:
        """Keep a result; its ``code`` says of what.

        Raises:
            OutputError: It cannot be written.
        """
        code, plain = result["code"], dict(result)
        with staged(self._path(code)) as temporary:
            temporary.write_text(json.dumps(plain), encoding="utf-8")
        self._known[code] = plain
        self._read.add(self._path(code).name)
        self.release(code)

    def _path(self, code: str) -> Path:
        """Return where the result of a strategy is."""
        return self.folder / "results" / f"{_name(code)}.json"

    def _is_taken_over(self, claim: Path) -> bool:
        """Take a claim that whoever made it has not come back to; say whether it was one."""
        try:
            known = list(self._known.values())  # other threads add to it
            slowest = max((each.get("seconds", 0.0) for each in known), default=0.0)
            if time.time() - claim.stat().st_mtime <= max(self._patience, SLOWER * slowest):
                return False
            os.utime(claim)
        except OSError:  # it was released this moment
            return False
        return True


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds results.

    Raises:
        OutputError: It does.
    """
    count = len(list((folder / "results").glob("*.json")))
    if count:
        raise OutputError(
            f"{folder} holds {count} strategies evaluated before: --resume goes on with them; "
            "delete it to begin anew"
        )


def _name(code: str) -> str:
    """Return a file name for a code, which may be longer than one may be."""
    return hashlib.sha256(code.encode()).hexdigest()[:32]


def _is_foreign(folder: Path) -> bool:
    """Say whether a folder without `search.json` holds what no search that begins there made."""
    return folder.exists() and any(not e.name.startswith(BEGUN) for e in folder.iterdir())


def _differences(text: bytes, about: Mapping[str, Any]) -> str | None:
    """Return the first thing a folder is about that is different."""
    try:
        found = json.loads(text)
        return next((key for key in about if found.get(key) != about[key]), None)
    except (ValueError, AttributeError):
        return "format"
