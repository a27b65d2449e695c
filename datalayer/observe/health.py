"""Whether the layer can serve, and which tier is the matter if not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class TierHealth:
    """One tier. ``detail`` is for people; ``latency_ms`` is None when nothing was asked or nothing answered."""

    ok: bool
    detail: str = ""
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"ok": self.ok, "detail": self.detail, "latency_ms": self.latency_ms}


@dataclass(frozen=True, slots=True)
class Health:
    """The whole layer. ``ok``: every tier works. ``degraded``: it serves without a cache or a replica that it should
    have. ``down``: it cannot ask the database."""

    ok: bool
    status: Status
    tiers: Mapping[str, TierHealth] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "ok": self.ok,
            "status": self.status,
            "tiers": {name: tier.to_dict() for name, tier in self.tiers.items()},
        }
