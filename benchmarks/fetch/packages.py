"""Get files out of packages, with the registries' ordinary clients."""

import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path


class MissingError(Exception):
    """An ingredient of a model is not there; the message says which."""


def run(command: Sequence[object], folder: Path, why: str) -> str:
    """Run a program and return what it prints.

    Args:
        command: Program and arguments.
        folder: Where to run it.
        why: What cannot be had if it fails.

    Raises:
        MissingError: The program is not there, or fails.
    """
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise MissingError(f"{why}: {command[0]} is not on this machine") from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if "WARNING" not in line]
        raise MissingError(f"{why}: {(lines or ['no reason given'])[-1]}")
    return done.stdout


def wheel(cache: Path, requirement: str) -> Path:
    """Download a wheel and unpack it, without installing it.

    Args:
        cache: The benchmark's cache.
        requirement: Name and version.

    Returns:
        The folder with its files.
    """
    unpacked = cache / "packages" / requirement
    if unpacked.exists():
        return unpacked
    parts = cache / "packages" / f"{requirement}.part"
    shutil.rmtree(parts, ignore_errors=True)
    (parts / "files").mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    run([*pip, "--only-binary=:all:", "--dest", parts, requirement], cache, requirement)
    for file in parts.glob("*.whl"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(parts / "files")
    (parts / "files").rename(unpacked)
    shutil.rmtree(parts)
    return unpacked


def debian(cache: Path, package: str) -> Path:
    """Download a Debian package and unpack it, without installing it.

    Args:
        cache: The benchmark's cache.
        package: Its name.

    Returns:
        The folder with its files.
    """
    unpacked = cache / "packages" / package
    if unpacked.exists():
        return unpacked
    parts = cache / "packages" / f"{package}.part"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    run(["apt-get", "download", package], parts, f"Debian package {package}")
    (file,) = parts.glob("*.deb")
    run(["dpkg", "-x", file, parts / "files"], parts, f"Debian package {package}")
    (parts / "files").rename(unpacked)
    shutil.rmtree(parts)
    return unpacked


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Make a virtual environment, apart from onnxq's.

    Args:
        folder: Where.
        requirements: What to install in it.

    Returns:
        Its Python.
    """
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join(requirements)
    if ready.exists() and ready.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *requirements], folder, f"{' '.join(requirements)} cannot be installed")
    ready.write_text(wanted)
    return python
