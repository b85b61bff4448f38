"""A model to search on: emitted once, and cut into pieces."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from onnxq.comparison import nearness
from onnxq.drafting import Draft
from onnxq.emit import emit
from onnxq.emit.qdq import Emitted
from onnxq.errors import ModelError
from onnxq.graph import io
from onnxq.graph.chain import Chain
from onnxq.graph.session import Runtime, Session
from onnxq.search.exam import Exam, answers_of

log = logging.getLogger(__name__)

SAME = 50.0  # dB between a model in pieces and as a whole; far above what quantizing costs


@dataclass(frozen=True, kw_only=True)
class Emission:
    """A draft and the model emitted from it.

    Attributes:
        draft: The draft, its prepared model as it was before.
        model: What was emitted.
        emitted: What the emitter tells.
    """

    draft: Draft
    model: io.Model
    emitted: Emitted

    @classmethod
    def of(cls, made: Draft, path: Path) -> Self:
        """Emit a copy of a draft's model, and write it."""
        model = io.copied(made.prepared)
        emitted = emit(model, made.plan, made.activations, made.weights)
        io.write(model, path)
        return cls(draft=made, model=model, emitted=emitted)


def chained(emission: Emission, exam: Exam, whole: Session, runtime: Runtime) -> Chain:
    """Cut the model into pieces that compute what it does as a whole, as the first batch shows.

    Codes are the same in pieces; floats may differ in their last bits, and then a code here and
    there. With powers of two float arithmetic on the grids is exact, and often faster than kernels
    for codes with a sign.
    """
    feed, samples = exam.batches[0].inputs, exam.batches[0].samples
    outputs = answers_of(whole, feed)
    proto, folder = io.sync(emission.model), emission.model.path.parent
    plain = (False, True) if emission.draft.plan.target.power_of_two else (True,)
    for fuse in plain:
        chain = Chain(proto, folder, replace(runtime, fuse=fuse))
        try:
            got = chain.run(feed, 0)
        except ModelError as error:
            log.info("pieces cannot be run: %s", error)
            continue
        near = [nearness(outputs[name], got[name], samples) for name in outputs]
        if all(each.sqnr >= SAME and not each.unequal for each in near):
            return chain
    log.info("the pieces do not compute what the whole does: candidates run the whole model")
    return Chain(proto, folder, runtime, count=1)
