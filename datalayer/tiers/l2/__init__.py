"""The shared tier: Redis, alone, behind Sentinel, or as a Cluster."""

from .backplane import RedisBackplane
from .overlay import RedisOverlay
from .results import RedisResults
from .subscriber import Subscriber
from .tier import RedisTier
from .topology import topology_of
from .wire import Wire

__all__ = ["RedisBackplane", "RedisOverlay", "RedisResults", "RedisTier", "Subscriber", "Wire", "topology_of"]
