"""Counts what the ladders have seen, as the snapshot that ``layer.stats()`` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..observe.stats import ModelStats, Stats, TierStats, total_by_tier
from .ladder import Ladder


def collect(ladders: Iterable[Ladder], failures: Mapping[str, int], writes: Mapping[str, int]) -> Stats:
    """A snapshot over all models. Takes each L1's lock once; the counters themselves are read as they are."""
    models = {ladder.root.__name__: _model(ladder) for ladder in ladders}
    tiers = total_by_tier(models.values())
    l1 = tiers.get("l1", TierStats())
    return Stats(
        gets=l1.hits + l1.misses,
        sets=writes.get("sets", 0),
        deletes=writes.get("deletes", 0),
        errors=sum(failures.values()),
        l1_entries=l1.entries,
        tiers=tiers,
        models=models,
    )


def _model(ladder: Ladder) -> ModelStats:
    counts, l1 = ladder.counts, ladder.l1
    decode = {name.removeprefix("decode_"): n for name, n in counts.items() if name.startswith("decode_")}
    return ModelStats(
        tiers={
            "l1": TierStats(
                hits=l1.hits,
                misses=counts["l1_misses"],
                rejected_fills=ladder.guard.refused,
                evictions=l1.evictions,
                entries=len(l1),
                bytes=l1.bytes,
                stale=counts["stale"],
            ),
            "l2": TierStats(
                hits=counts["l2_hits"],
                misses=counts["l2_misses"],
                fills=counts["l2_fills"],
                errors=sum(n for name, n in counts.items() if name.startswith("unencodable_")),
                decode_errors=decode,
            ),
            "l3": TierStats(hits=counts["l3_reads"]),
        }
    )
