"""The loops every calibrated value goes through, in LLVM's language: see ``kernel.ll``.

Rows of 16 values are read as the bits of float32, never as floats. Numba would need seconds to
compile as much, and half a second to load it again; LLVM, which comes with it, needs 30 ms.

Two maps of a value's bits ``v`` are used (all integers unsigned unless said otherwise):

- its *key*, which rises with the value: ``v ^ ((v >> 31, signed) | 0x80000000)``. The key of the
  negative of the value is the complement;
- its *column* in the counts of its sign: one of the first 16, by lane, if it counts as zero, so
  that equal neighbours do not wait for each other; from there on its bin.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from threading import Lock
from typing import Any

import llvmlite.binding as llvm

from onnxq.numerics.histogram import BINS, FIRST_NORMAL, HUGE, SHIFT, TINY

LANES = 16
ROWS = 64  # a block
BLOCK = ROWS * LANES  # values
SIGN = 1 << 31
LOCK = Lock()
COLUMNS = LANES + BINS - FIRST_NORMAL  # of one sign

INCREMENT = """  ; of the count of one value
  %i$k = add i64 %i, $k
  %which$k = getelementptr i32, ptr %columns, i64 %i$k
  %c$k = load i32, ptr %which$k, align 4
  %wide$k = zext i32 %c$k to i64
  %count$k = getelementptr i32, ptr %counts, i64 %wide$k
  %n$k = load i32, ptr %count$k, align 4
  %more$k = add i32 %n$k, 1
  store i32 %more$k, ptr %count$k, align 4
"""

POINTER, SIZE, WORD = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32
ROWS_OF = (POINTER, POINTER, SIZE, SIZE, SIZE)  # bits, tail, whole, rows, start
SIGNATURES = {
    "count": (*ROWS_OF, POINTER, POINTER, POINTER, POINTER),
    "fold": (POINTER, POINTER, SIZE),
    "gather": (*ROWS_OF, POINTER, WORD, WORD, POINTER, POINTER, SIZE),
}


@dataclass(frozen=True)
class Kernel:
    """The loops as functions of C, which let other threads run; see their comments.

    Attributes:
        engine: What the code belongs to.
    """

    engine: Any
    count: Callable[..., int]
    fold: Callable[..., int]
    gather: Callable[..., int]


def kernel() -> Kernel:
    """Compile the loops for this processor, once."""
    with LOCK:
        return _compiled()


@cache
def _compiled() -> Kernel:
    """Compile the loops."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(_text())
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    functions = {
        name: ctypes.CFUNCTYPE(SIZE, *types)(engine.get_function_address(name))
        for name, types in SIGNATURES.items()
    }
    return Kernel(engine, **functions)


def _text() -> str:
    """Return the module with all constants filled in."""
    tiny, huge = (int(value.view("uint32")) for value in (TINY, HUGE))
    same = {
        "ones": (1 << 32) - 1,
        "plus": SIGN - 1,
        "minus": SIGN,
        "last": 31,
        "shift": SHIFT,
        "tiny": tiny,
        "span": huge - tiny,
        "base": FIRST_NORMAL - LANES,
        "width": COLUMNS,
    }
    vectors = {name: [value] * LANES for name, value in same.items()}
    vectors["zeros"] = [FIRST_NORMAL - LANES + lane for lane in range(LANES)]
    filled = {name: f"<{', '.join(f'i32 {x}' for x in each)}>" for name, each in vectors.items()}
    increments = "".join(Template(INCREMENT).substitute(k=k) for k in range(4))
    plain = {"rows": ROWS, "ahead": 4 * BLOCK, "huge": SIGN + huge, "increments": increments}
    text = (resources.files("onnxq.numerics") / "kernel.ll").read_text(encoding="utf-8")
    return Template(text).substitute(filled, **plain)


def _features() -> str:
    """Return what this processor can do, as far as LLVM can tell."""
    try:
        return str(llvm.get_host_cpu_features().flatten())
    except RuntimeError:  # it cannot on some
        return ""
