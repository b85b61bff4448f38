"""The matrices of a layer: which weight belongs to which input and which output.

    op             weight             rows (inputs)                       columns (outputs)
    Conv           (O, I/g, k…)       I/g · k…, or k… · I/g               O/g
    ConvTranspose  (I, O/g, k…)       I/g · k…, or k… · I/g               O/g
    Gemm           (K, N), or (N, K)  K                                   N
    MatMul, right  (…, K, N), (K)     K                                   N, or 1
    MatMul, left   (…, M, K), (K)     K                                   M, or 1

A group of a convolution and a matrix of a stack are matrices of their own. A transposed convolution
is taken as the convolution it is on its input with zeros in between.
"""

from onnxq.graph.io import Node
from onnxq.types import MatrixView


def matrix_view(
    node: Node, index: int, shape: tuple[int, ...], rows: str = "channel"
) -> MatrixView:
    """Return how a weight becomes matrices.

    Args:
        node: A Conv, ConvTranspose, Gemm or MatMul.
        index: Which input the weight is.
        shape: Shape of the weight.
        rows: Of a convolution: ``channel`` for all weights of an input channel together,
            ``kernel`` for all input channels of a place in the kernel together.
    """
    if node.op in ("Conv", "ConvTranspose"):
        return _convolution(shape, node.attrs.get("group", 1), rows, transposed=node.op != "Conv")
    stack, rank = tuple(range(len(shape) - 2)), len(shape)
    names = (*(f"stack {axis}" for axis in stack), "input", "output")
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        index = 0  # outputs first, as in a MatMul with its weights on the left
    if rank == 1:
        return MatrixView(split=shape, names=("input",), groups=(), rows=(0,), columns=())
    inputs, outputs = (rank - 2, rank - 1) if index else (rank - 1, rank - 2)
    names = names if index else (*names[:-2], "output", "input")
    return MatrixView(split=shape, names=names, groups=stack, rows=(inputs,), columns=(outputs,))


def _convolution(shape: tuple[int, ...], groups: int, rows: str, *, transposed: bool) -> MatrixView:
    """Return the view of a convolution; groups, if there are some, lie on the first axis."""
    first = 1 if groups > 1 else 0  # axis of the split weight behind that of the groups
    kernel = tuple(range(first + 2, first + len(shape)))
    inputs, outputs = (first, first + 1) if transposed else (first + 1, first)
    both = ("input", "output") if transposed else ("output", "input")
    count, stack = ((groups, shape[0] // groups), ("group",)) if first else ((shape[0],), ())
    return MatrixView(
        split=(*count, *shape[1:]),
        names=(*stack, *both, *(f"kernel {axis}" for axis in range(len(kernel)))),
        groups=tuple(range(first)),
        rows=(inputs, *kernel) if rows == "channel" else (*kernel, inputs),
        columns=(outputs,),
    )
