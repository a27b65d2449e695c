"""The shared tier: Redis, alone, behind Sentinel, or as a Cluster."""

from .tier import RedisTier

__all__ = ["RedisTier"]
