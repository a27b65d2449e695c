"""The shared tier: Redis, alone, behind Sentinel, or as a Cluster."""

from .backplane import RedisBackplane
from .overlay import RedisOverlay
from .subscriber import Subscriber
from .tier import RedisTier
from .topology import topology_of
from .wire import Wire

__all__ = ["RedisBackplane", "RedisOverlay", "RedisTier", "Subscriber", "Wire", "topology_of"]
