"""Put the bodies of local functions in place of their calls.

Before:
    y = my.dense(x, w)          with dense(a, b) => (c) { c = MatMul(a, b) }

After:
    y = MatMul(x, w)

The operators inside a function can be quantized only where each call has its own tensors. A
function may name another operator set than the model; the checker has made sure that its operators
are the same in both. Refused: (1) what onnx cannot inline.
"""

import onnx.inliner

from onnxq.graph.edit import number_nodes
from onnxq.graph.io import Model, first_line, from_proto, sync
from onnxq.graph.query import label
from onnxq.graph.weightless import put_back, weightless
from onnxq.passes import PassReport


def inline_functions(model: Model) -> PassReport:
    """Apply the pass; names of the main graph's tensors stay."""
    known = {(function.domain, function.name) for function in model.proto.functions}
    graphs = (model.graph, *model.graph.subgraphs(recursive=True)) if known else ()
    nodes = (node for graph in graphs for node in graph.nodes)
    calls = [node for node in nodes if (node.domain or "", node.op) in known]
    if not calls:
        return PassReport(name="inline_functions")
    original = sync(model)
    light = weightless(original)
    for opset in (opset for function in light.functions for opset in function.opset_import):
        if opset.domain in ("", "ai.onnx"):
            opset.version = model.opset
    try:
        inlined = onnx.inliner.inline_local_functions(light)
    except Exception as error:  # noqa: BLE001  C++ exceptions share no base
        reason = first_line(error)  # case 1
        return PassReport(
            name="inline_functions", skipped=tuple((label(call), reason) for call in calls)
        )
    put_back(original, inlined)
    number_nodes(inlined.graph)
    fresh = from_proto(inlined, model.path, model.sha256)
    model.graph, model.proto = fresh.graph, fresh.proto
    return PassReport(name="inline_functions", changed=tuple(label(call) for call in calls))
