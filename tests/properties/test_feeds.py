"""Batches for any chunks, sizes, limits and shards."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_feeds import chunks, cut, numbers

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@given(SIZES, st.integers(1, 6), st.none() | st.integers(1, 30))
def test_any_chunks_give_the_same_batches(
    sizes: list[int], batch_size: int, samples: int | None
) -> None:
    found = cut(chunks(*sizes), batch_size=batch_size, samples=samples)
    total = min(sum(sizes), samples or sum(sizes))
    expected = [
        list(range(start, min(start + batch_size, total))) for start in range(0, total, batch_size)
    ]
    assert numbers(found) == expected
    assert sum(batch.samples for batch in found) == total


@given(SIZES, st.integers(1, 3), st.integers(1, 4))
def test_shards_part_the_batches_exactly(sizes: list[int], batch_size: int, count: int) -> None:
    whole = numbers(cut(chunks(*sizes), batch_size=batch_size))
    dealt = {}
    for index in range(min(count, len(whole))):
        mine = numbers(cut(chunks(*sizes), batch_size=batch_size, shard=(index, count)))
        dealt.update({index + i * count: batch for i, batch in enumerate(mine)})
    assert dealt == dict(enumerate(whole))
