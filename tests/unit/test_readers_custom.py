"""Readers of one's own: both protocols, and one line for whatever their code does."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import calib_readers
from calib_readers.custom import load_custom


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = (None, 2)


X = [Input("x")]

CODE = """
    import numpy as np

    def feed(value):
        return {"x": np.full((1, 2), value, np.float32)}

    class Ours:
        stackable = True
        notes = "two\\nlines"
        def __init__(self, source, inputs, count=2):
            assert source is None
            self.inputs, self.count = inputs, count
        def __iter__(self):
            return iter([feed(i) for i in range(self.count)])
        def __len__(self):
            return self.count

    class Bare:
        def __iter__(self):
            yield feed(1)

    class Pull:
        made = 0
        def __init__(self, count=2):
            Pull.made += 1
            self.left = [feed(i) for i in range(count)]
        def get_next(self):
            return self.left.pop(0) if self.left else None
        def __iter__(self):  # as onnxruntime's base class has it
            return self
        def __next__(self):
            raise StopIteration
        def __len__(self):
            raise NotImplementedError

    class Once:
        def __init__(self):
            self.left = iter([feed(5)])
        def __iter__(self):
            return self
        def __next__(self):
            return next(self.left)

    class Neither:
        pass

    class FailsToStart:
        def __init__(self):
            raise KeyError("path\\nof data")

    class FailsToRead:
        def get_next(self):
            raise RuntimeError("no\\ndata")

    class FailsLater:
        def __iter__(self):
            yield feed(1)
            yield feed(2)["y"]

    class Lists:
        def get_next(self):
            return [1, 2]

    class Nones:
        def __iter__(self):
            yield None

    value = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_readers.py").write_text(dedent(CODE))
    (tmp_path / "my_broken.py").write_text("import\n")
    (tmp_path / "my_needy.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_readers", "my_broken", "my_needy", "mydata"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "my_readers"


def values(reader: Any) -> list[float]:
    return [feed["x"][0, 0].item() for feed in reader]


def test_our_protocol_gets_inputs_source_and_options(module: str) -> None:
    reader = load_custom(f"{module}:Ours", X, {"count": 3})
    assert values(reader) == values(reader) == [0, 1, 2]
    assert len(reader) == 3
    assert reader.stackable is True
    assert reader.notes == ("two lines",)
    assert reader.name == f"{module}:Ours"


def test_what_a_class_does_not_say(module: str) -> None:
    reader = load_custom(f"{module}:Bare", X)
    assert values(reader) == values(reader) == [1]
    assert reader.stackable is False
    assert reader.notes == ()
    assert reader
    with pytest.raises(TypeError, match="does not say"):
        len(reader)


def test_onnxruntime_protocol_is_made_anew_for_every_iteration(module: str) -> None:
    reader = load_custom(f"{module}:Pull", X, {"count": 2})
    assert values(reader) == [0, 1]
    assert values(reader) == [0, 1]
    assert sys.modules[module].Pull.made == 2  # the instance made to check it was used
    next(iter(reader))
    assert values(reader) == [0, 1]
    with pytest.raises(TypeError, match="does not say"):
        len(reader)


def test_a_real_onnxruntime_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        import numpy as np
        from onnxruntime.quantization import CalibrationDataReader

        class Reader(CalibrationDataReader):
            def __init__(self):
                self.left = iter([{"x": np.ones((1, 2), np.float32)}])
            def get_next(self):
                return next(self.left, None)
    """
    pytest.importorskip("onnxruntime.quantization")
    (tmp_path / "my_ort.py").write_text(dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_ort", raising=False)
    reader = load_custom("my_ort:Reader", X)
    assert values(reader) == values(reader) == [1]


def test_iterators_are_made_anew(module: str) -> None:
    reader = load_custom(f"{module}:Once", X)
    assert values(reader) == values(reader) == [5]


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("my_readers", {}, "does not read module:Class"),
        (":Ours", {}, "does not read module:Class"),
        ("C:\\data\\x", {}, "does not read module:Class"),
        ("no_such_module:Ours", {}, "no module 'no_such_module'"),
        ("my_broken:Ours", {}, "importing failed: SyntaxError"),
        ("my_needy:Ours", {}, "importing failed: ModuleNotFoundError"),
        ("my_readers:Our", {}, "no class 'Our' in module 'my_readers'; did you mean 'Ours'?"),
        ("my_readers:value", {}, "no class 'value'"),
        ("my_readers:Ours", {"coutn": 3}, "unexpected keyword argument 'coutn'"),
        ("my_readers:Neither", {}, "neither __iter__ nor get_next"),
        ("my_readers:FailsToStart", {}, "making the reader failed: KeyError: 'path\\nof data'"),
        ("my_readers:FailsToRead", {}, "reading failed: RuntimeError: no data"),
        ("my_readers:FailsLater", {}, "reading failed: KeyError: 'y'"),
        ("my_readers:Lists", {}, "a feed must be a dict of arrays, got list"),
        ("my_readers:Nones", {}, "a feed must be a dict of arrays, got NoneType"),
    ],
)
def test_failures_are_one_line_naming_the_class(
    spec: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        list(load_custom(spec, X, options))
    message = str(caught.value)
    assert words in message
    assert spec.partition(":")[0] in message


def test_import_path_is_left_alone(module: str) -> None:
    before = list(sys.path)
    load_custom(f"{module}:Bare", X)
    assert sys.path == before


@pytest.mark.usefixtures("module")
def test_the_example_in_the_docstring_runs(tmp_path: Path) -> None:
    example = re.search(r"::\n\n(.*?)\n\nTo find", calib_readers.__doc__, re.DOTALL)
    (tmp_path / "mydata.py").write_text(dedent(example.group(1)))
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    reader = load_custom("mydata:CsvReader", X, {"path": str(tmp_path / "rows.csv")})
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in reader]), [[1, 2], [3, 4]])
    assert reader.stackable
    assert "rows.csv" in reader.notes[0]
