"""The structural passes every model goes through before it is calibrated or quantized."""

from onnxq.graph.io import Model
from onnxq.passes import PassReport
from onnxq.passes.fold_batchnorm import fold_batchnorm
from onnxq.passes.fold_constants import fold_constants
from onnxq.passes.fold_padding import fold_padding
from onnxq.passes.fold_scaling import fold_scaling
from onnxq.passes.fold_shapes import fold_shapes
from onnxq.passes.fuse_hardswish import fuse_hardswish
from onnxq.passes.hoist_constants import hoist_constants
from onnxq.passes.inline_functions import inline_functions
from onnxq.passes.inline_ifs import inline_ifs

STRUCTURAL = (
    inline_functions,
    hoist_constants,
    fold_shapes,
    fold_constants,
    inline_ifs,
    fold_padding,
    fold_batchnorm,
    fold_scaling,
    fuse_hardswish,
)


def prepare(model: Model) -> list[PassReport]:
    """Apply the structural passes in place and return their reports.

    The nodes of an inlined branch have been through none of them, so all passes start over.
    """
    reports = []
    for apply in STRUCTURAL:
        reports.append(apply(model))
        if apply is inline_ifs and reports[-1].modified:
            return [*reports, *prepare(model)]
    return reports
