"""The calibration table: statistics of many tensors, and a few samples to check results with.

Two tables of the same model merge exactly: counts add, extremes compare, and the kept samples
are the ones with the smallest content hash among all that were seen, so they do not depend on
order or sharding.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.histogram import MIXED, merge
from onnxq.readers import Feed
from onnxq.types import TensorStats

log = logging.getLogger(__name__)

CHECKS = 8  # kept samples that are enough to check a result on


@dataclass(frozen=True, kw_only=True)
class KeptSamples:
    """The samples with the smallest content hashes, bounded in number and size.

    A prefix of all samples in the order of their hashes: adding samples in any order, or
    merging, gives the same prefix. ``cut`` remembers the smallest hash left out, so that a
    merge cannot let in what lies behind a gap.

    Attributes:
        limit: Most samples to keep.
        limit_bytes: Most bytes of arrays to keep.
        feeds: Hash to feed, ascending.
        cut: Smallest hash left out, or the empty string.
    """

    limit: int = 8
    limit_bytes: int = 64 << 20
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    cut: str = ""

    @property
    def checks(self) -> list[Feed]:
        """Those for checking: half of them, of more than 16 eight to eleven, evenly spread."""
        step = self._step
        return list(self.feeds.values())[step - 1 :: step]

    @property
    def fit(self) -> list[Feed]:
        """The others, which may be fitted on."""
        return [feed for i, feed in enumerate(self.feeds.values(), 1) if i % self._step]

    @property
    def _step(self) -> int:
        """Every so many there is one for checking."""
        return max(2, len(self.feeds) // CHECKS)

    def add(self, feeds: Iterable[Feed]) -> "KeptSamples":
        """Offer more samples; those with texts in them are never kept."""
        if not self.limit:
            return self
        plain = (feed for feed in feeds if all(a.dtype != object for a in feed.values()))
        hashed = {content_hash(feed): feed for feed in plain}
        kept = self._prefix({**hashed, **self.feeds}, self.cut)
        own = {  # not views that hold a whole batch
            key: self.feeds.get(key) or {name: array.copy() for name, array in feed.items()}
            for key, feed in kept.feeds.items()
        }
        return replace(kept, feeds=own)

    def merge(self, other: "KeptSamples") -> "KeptSamples":
        """Combine what two parts of the data kept; the smaller of their limits hold."""
        cuts = [cut for cut in (self.cut, other.cut) if cut]
        limits = KeptSamples(
            limit=min(self.limit, other.limit),
            limit_bytes=min(self.limit_bytes, other.limit_bytes),
        )
        return limits._prefix({**self.feeds, **other.feeds}, min(cuts, default=""))

    def _prefix(self, feeds: Mapping[str, Feed], cut: str) -> "KeptSamples":
        """Keep the beginning that the limits allow."""
        kept: dict[str, Feed] = {}
        size = 0
        for key in sorted(feeds):
            size += sum(array.nbytes for array in feeds[key].values())
            if (cut and key >= cut) or len(kept) == self.limit or size > self.limit_bytes:
                cut = min(cut, key) if cut else key
                break
            kept[key] = feeds[key]
        return KeptSamples(limit=self.limit, limit_bytes=self.limit_bytes, feeds=kept, cut=cut)


def content_hash(feed: Feed) -> str:
    """Return a digest of a feed's names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(feed):
        digest.update(f"{name}\0{feed[name].dtype.str}\0{feed[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Group:
    """What was seen of one group of samples.

    Attributes:
        samples: Number of samples.
        tensors: Tensor name to statistics.
        channels: Tensor name to statistics a channel, where they were asked for.
    """

    samples: int = 0
    tensors: Mapping[str, TensorStats] = field(default_factory=dict)
    channels: Mapping[str, TensorStats] = field(default_factory=dict)

    def merge(self, other: "Group") -> "Group":
        """Combine two groups; a tensor that only one of them has is kept as it is."""
        return Group(
            samples=self.samples + other.samples,
            tensors=_merged(self.tensors, other.tensors),
            channels=_merged(self.channels, other.channels),
        )


def _merged(
    one: Mapping[str, TensorStats], other: Mapping[str, TensorStats]
) -> dict[str, TensorStats]:
    """Merge statistics by name; those of different channels give those of none."""
    both = {
        name: merge(one[name], other[name]) if _alike(one[name], other[name]) else MIXED
        for name in one.keys() & other.keys()
    }
    return {**one, **other, **both}


def _beside(
    all_: Mapping[str, TensorStats], known: Mapping[str, TensorStats]
) -> dict[str, TensorStats]:
    """Return the statistics that are not kept by group: those added by `onnxq.observing`."""
    return {name: stats for name, stats in all_.items() if name not in known}


def _alike(one: TensorStats, other: TensorStats) -> bool:
    """Say whether two statistics have the same tiles."""
    return one.lo.shape == other.lo.shape


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """What calibration saw.

    Attributes:
        model_sha256: Digest of the float model it belongs to.
        groups: What was seen of disjoint groups of samples: batch n is in group n modulo their
            number.
        batch_size: Samples a batch; a runtime's last bits can depend on it.
        threads: Threads inside an operator, for the same reason.
        versions: Tool name to version, for the record.
        kept: A few samples, for checking the result.
    """

    model_sha256: str
    groups: tuple[Group, ...]
    batch_size: int
    threads: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    kept: KeptSamples = field(default_factory=KeptSamples)

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return sum(group.samples for group in self.groups)

    @cached_property
    def tensors(self) -> Mapping[str, TensorStats]:
        """Tensor name to statistics over all groups."""
        return self._all.tensors

    @cached_property
    def channels(self) -> Mapping[str, TensorStats]:
        """Tensor name to statistics a channel over all groups."""
        return self._all.channels

    @cached_property
    def _all(self) -> Group:
        """All groups as one."""
        return reduce(Group.merge, self.groups)

    def only(self, numbers: Iterable[int]) -> "CalibrationTable":
        """Return the table of some groups; what was observed of all samples together stays.

        Raises:
            CalibrationError: There is no such group, or none was named.
        """
        chosen = sorted(set(numbers))
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < len(self.groups):
            raise CalibrationError(f"the table has groups 0 to {len(self.groups) - 1}: {chosen}")
        first, *others = (self.groups[number] for number in chosen)
        whole = Group(
            samples=first.samples,
            tensors={**_beside(self.tensors, self.groups[-1].tensors), **first.tensors},
            channels={**_beside(self.channels, self.groups[-1].channels), **first.channels},
        )
        return replace(self, groups=(whole, *others))

    def merge(self, other: "CalibrationTable") -> "CalibrationTable":
        """Combine the tables of two parts of the data.

        Raises:
            CalibrationError: They are of different models, hold different tensors, or have
                different numbers of groups.
        """
        if self.model_sha256 != other.model_sha256:
            raise CalibrationError("the tables are of different models")
        if set(self.tensors) != set(other.tensors) or set(self.channels) != set(other.channels):
            raise CalibrationError("the tables hold different tensors: calibrate alike")
        if len(self.groups) != len(other.groups):
            raise CalibrationError("the tables have different numbers of groups: calibrate alike")
        if self.made != other.made:
            log.warning(
                "the tables were made with different batch sizes, threads or versions of tools"
            )
        return replace(
            self,
            groups=tuple(a.merge(b) for a, b in zip(self.groups, other.groups, strict=True)),
            batch_size=max(self.batch_size, other.batch_size),
            kept=self.kept.merge(other.kept),
        )

    @property
    def made(self) -> tuple[int, int, Mapping[str, str]]:
        """What the last bits of the statistics may depend on."""
        return self.batch_size, self.threads, self.versions
