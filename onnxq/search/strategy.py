"""A strategy and its code: each determines the other.

    0r3k7a9zq1x8f2m4-00302…        <space-id>-<genes in base 36>

The space-id tells which factors are open (two digits), then the model, the target, the recipe and
the options, four digits of a digest each, so that a code of another space can be refused with what
is different.
"""

import hashlib
from collections.abc import Sequence

from onnxq.errors import RecipeError
from onnxq.recipe import dumps
from onnxq.search.space import FACTORS, Space

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
PART = 4  # digits of a digest
PARTS = ("model", "target", "recipe", "options")
HINTS = {
    "recipe": "give the flags and the recipe that the search was given",
    "options": "another version of onnxq, or a table with other groups of samples",
}


def encode(space: Space, genes: Sequence[int]) -> str:
    """Return the code of a strategy."""
    return f"{space_id(space)}-{''.join(DIGITS[int(value)] for value in genes)}"


def factors_of(code: str) -> tuple[str, ...]:
    """Return the factors that are open in the space of a code.

    Raises:
        RecipeError: It is no code.
    """
    mask = int(_parts(code)[0], 36)
    if not 0 < mask < 1 << len(FACTORS):
        raise RecipeError(f"strategy {code!r}: opens nothing that this version of onnxq knows")
    return tuple(name for bit, name in enumerate(FACTORS) if mask >> bit & 1)


def decode(space: Space, code: str) -> tuple[int, ...]:
    """Return the strategy of a code.

    Raises:
        RecipeError: It is no code, or one of another space.
    """
    mask, digests, digits = _parts(code)
    for name, theirs, ours in zip(PARTS, digests, _digests(space), strict=True):
        if theirs != ours:
            hint = f": {HINTS[name]}" if name in HINTS else ""
            raise RecipeError(f"strategy {code!r} is for another {name}{hint}")
    genes = tuple(DIGITS.index(digit) for digit in digits)
    fits = len(genes) == len(space.genes) and all(
        value < count for value, count in zip(genes, space.counts, strict=True)
    )
    if not fits or mask != _mask(space):
        raise RecipeError(f"strategy {code!r} has choices that are not in this space")
    return genes


def space_id(space: Space) -> str:
    """Return what tells spaces apart, 18 digits."""
    return "".join([_mask(space), *_digests(space)])


def _mask(space: Space) -> str:
    """Return the open factors as two digits."""
    number = sum(1 << bit for bit, name in enumerate(FACTORS) if name in space.factors)
    return DIGITS[number // 36] + DIGITS[number % 36]


def _digests(space: Space) -> list[str]:
    """Return the digests of all that makes a space."""
    options = [(g.name, g.kind, [o.label for o in g.options]) for g in space.genes]
    what = (space.model_sha256, space.target, dumps(space.base), repr(options))
    return [_digest(each) for each in what]


def _digest(text: str) -> str:
    """Return four digits that tell texts apart."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return "".join(DIGITS[number // 36**place % 36] for place in range(PART))


def _parts(code: str) -> tuple[str, list[str], str]:
    """Return the factors, the digests and the genes of a code."""
    head, dash, digits = code.partition("-")
    length = 2 + PART * len(PARTS)
    if not (dash and digits and len(head) == length and set(head + digits) <= set(DIGITS)):
        raise RecipeError(
            f"strategy {code!r}: a code is {length} digits, a dash and the choices, as onnxq "
            "search prints it"
        )
    cuts = range(2, length, PART)
    return head[:2], [head[i : i + PART] for i in cuts], digits
