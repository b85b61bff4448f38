"""Tables merge exactly, keep the same samples whatever the order, and survive the disk."""

import tempfile
from functools import reduce
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq import table_file
from onnxq.numerics.histogram import merge as merge_stats
from onnxq.numerics.observe import observe
from onnxq.readers import Feed
from onnxq.table import CalibrationTable, Group, KeptSamples, content_hash
from onnxq.types import Array, TensorStats
from tests import strategies
from tests.properties.test_histogram import held

FEEDS = st.lists(
    st.builds(
        lambda x, y: {"x": np.array(x, np.uint8), "y": np.array(y, np.float32)},
        st.lists(st.integers(0, 3), max_size=4),
        st.sampled_from([0.0, 1.5]),
    ),
    max_size=9,
)
LIMITS = st.builds(
    lambda limit, size: KeptSamples(limit=limit, limit_bytes=size),
    st.integers(0, 5),
    st.sampled_from([0, 3, 5, 8, 13, 21, 1000]),
)


def keys(kept: KeptSamples) -> tuple[list[str], str]:
    return list(kept.feeds), kept.cut


def same_feeds(a: KeptSamples, b: KeptSamples) -> bool:
    return keys(a) == keys(b) and all(
        feed[name].tobytes() == b.feeds[key][name].tobytes()
        for key, feed in a.feeds.items()
        for name in feed
    )


@st.composite
def parts_of(draw: st.DrawFn, feeds: list[Feed]) -> list[list[Feed]]:
    """Shuffle feeds and deal them to a few parts."""
    shuffled = draw(st.permutations(feeds))
    parts: list[list[Feed]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for feed in shuffled:
        parts[draw(st.integers(0, len(parts) - 1))].append(feed)
    return parts


@given(FEEDS, LIMITS, st.data())
def test_merging_any_partition_keeps_what_adding_all_keeps(
    feeds: list[Feed], empty: KeptSamples, data: st.DataObject
) -> None:
    whole = empty.add(feeds)
    pieces = [empty.add(part) for part in data.draw(parts_of(feeds))]
    while len(pieces) > 1:  # merge any two, until one is left
        a = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        b = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        pieces.append(a.merge(b))
    assert same_feeds(pieces[0], whole)


@given(FEEDS, LIMITS, st.data())
def test_adding_one_by_one_keeps_what_adding_all_keeps(
    feeds: list[Feed], empty: KeptSamples, data: st.DataObject
) -> None:
    parts = data.draw(parts_of(feeds))
    assert same_feeds(reduce(KeptSamples.add, parts, empty), empty.add(feeds))


@given(FEEDS, FEEDS, LIMITS)
def test_adding_to_a_merge_is_merging_the_added(
    a: list[Feed], b: list[Feed], empty: KeptSamples
) -> None:
    assert same_feeds(empty.add(a).add(b), empty.add(a).merge(empty.add(b)))


@given(FEEDS, FEEDS, LIMITS, LIMITS)
def test_merge_is_commutative_whatever_the_limits(
    a: list[Feed], b: list[Feed], one: KeptSamples, other: KeptSamples
) -> None:
    x, y = one.add(a), other.add(b)
    assert same_feeds(x.merge(y), y.merge(x))
    assert x.merge(y).limit == y.merge(x).limit
    assert x.merge(y).limit_bytes == y.merge(x).limit_bytes


@given(FEEDS, LIMITS)
def test_limits_hold_and_the_smallest_hashes_win(feeds: list[Feed], empty: KeptSamples) -> None:
    kept = empty.add(feeds)
    size = sum(array.nbytes for feed in kept.feeds.values() for array in feed.values())
    assert len(kept.feeds) <= empty.limit
    assert size <= empty.limit_bytes
    hashes = sorted({content_hash(feed) for feed in feeds})
    assert list(kept.feeds) == hashes[: len(kept.feeds)]
    if empty.limit and len(kept.feeds) < len(hashes):
        assert kept.cut == hashes[len(kept.feeds)]


STATS = st.builds(observe, strategies.rows()) | st.builds(
    lambda tiled: observe(*tiled), strategies.tiled(strategies.ANYTHING)
)

CHANNELS = st.builds(lambda tiled: observe(*tiled, histogram=False, keep=3), strategies.tiled())


@st.composite
def tables(draw: st.DrawFn) -> CalibrationTable:
    """Draw a table with odd names, odd values, tiles, and kept samples."""
    names = draw(st.lists(st.text(max_size=5), max_size=4, unique=True))
    return CalibrationTable(
        model_sha256=draw(st.text("0123456789abcdef", min_size=4, max_size=4)),
        groups=tuple(
            Group(
                samples=draw(st.integers(0, 10**12)),
                tensors={name: draw(STATS) for name in names},
                channels={name: draw(CHANNELS) for name in names[:1]},
            )
            for _ in range(draw(st.integers(1, 3)))
        ),
        threads=draw(st.integers(0, 9)),
        batch_size=draw(st.integers(1, 64)),
        versions=draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)),
        kept=draw(LIMITS).add(draw(FEEDS)),
    )


@given(tables())
def test_a_table_survives_the_disk(table: CalibrationTable) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "a.calib"), Path(folder, "b.calib")
        table_file.save(table, first)
        read = table_file.load(first)
        table_file.save(read, second)
        assert first.read_bytes() == second.read_bytes()
    assert content(read) == content(table)
    assert same_feeds(read.kept, table.kept)


def content(table: CalibrationTable) -> tuple[object, ...]:
    """Return all a table holds but its samples, as values that compare."""
    numbers = (table.model_sha256, table.batch_size, table.threads, dict(table.versions))
    limits = (table.kept.limit, table.kept.limit_bytes, table.kept.cut)
    return (numbers, limits, [group_content(group) for group in table.groups])


def group_content(group: Group) -> tuple[object, ...]:
    """Return all a group holds, as values that compare."""
    kinds = (group.tensors, group.channels)
    return (group.samples, [{name: held(stats) for name, stats in kind.items()} for kind in kinds])


@given(strategies.rows(), st.data())
def test_merging_tables_is_the_table_of_everything(values: Array, data: st.DataObject) -> None:
    parts = data.draw(strategies.split(values))
    merged = reduce(CalibrationTable.merge, [table_of(part) for part in parts])
    assert content(merged) == content(table_of(values))
    assert same_feeds(merged.kept, table_of(values).kept)


def table_of(values: Array) -> CalibrationTable:
    """Return the table a model of one tensor would get from feeding the values one by one."""
    nothing: TensorStats = observe(np.zeros(0, np.float32))
    return CalibrationTable(
        model_sha256="f",
        groups=(
            Group(
                samples=values.size,
                tensors={"t": reduce(merge_stats, map(observe, values), nothing)},
            ),
        ),
        batch_size=1,
        kept=KeptSamples(limit=3).add({"x": value[None]} for value in values),
    )
