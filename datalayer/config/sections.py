"""The nested way to write settings in a file: which key in which section is which option.

A text is the name of an option; a frozenset holds the only words that a key takes, where there is nothing to choose.
"""

from __future__ import annotations

from collections.abc import Mapping

Tree = Mapping[str, "str | frozenset[str] | Tree"]

SECTIONS: Tree = {
    "postgres": {
        "database_url": "url",
        "read_replica": "read_replica",
        "max_connections": "pool_size",
        "min_connections": "pool_min",
        "max_conn_lifetime": "pool_max_lifetime",
        "max_conn_idle_time": "pool_max_idle",
        "health_check_period": "health_check_period",
        "connect_timeout": "connect_timeout",
        "statement_timeout": "statement_timeout",
        "lock_timeout": "lock_timeout",
        "enable_query_stats": "query_stats",
        "slow_query_threshold": "slow_query",
        "auto_explain": {
            "enabled": "auto_explain",
            "log_analyze": "auto_explain_analyze",
            "log_buffers": "auto_explain_buffers",
            "log_timing": "auto_explain_timing",
            "min_duration": "auto_explain_min_duration",
        },
        "pool": {
            "max_lifetime_jitter": "pool_max_lifetime_jitter",
            "health_check_period": "pool_health_check_period",
            "lazy_connect": "lazy_connect",
            "timeout": "pool_timeout",
            "pre_ping": "pool_pre_ping",
        },
    },
    "cache": {
        "l1": {
            "type": frozenset({"memory"}),
            "size": "l1_max_entries",
            "max_bytes": "l1_max_bytes",
            "ttl": "l1_ttl",
            "eviction": "l1_eviction",
        },
        "l2": {
            "type": frozenset({"redis"}),
            "endpoint": "redis",
            "password": "redis_password",
            "db": "redis_db",
            "ttl": "l2_ttl",
            "max_connections": "redis_pool_size",
            "timeout": "redis_timeout",
            "key_prefix": "key_prefix",
        },
        "invalidation": {
            "strategy": frozenset({"event-based"}),
            "channel": "invalidation_channel",
            "patterns": "invalidation_patterns",
        },
    },
    "migrations": {
        "auto_migrate": "auto_migrate",
        "directory": "migrations_directory",
        "table": "migrations_table",
        "lock_timeout": "migrations_lock_timeout",
    },
    "vector": {
        "dimensions": "vector_dimensions",
        "index_lists": "vector_index_lists",
        "similarity_function": "vector_similarity_function",
        "search_threshold": "vector_search_threshold",
    },
    "monitoring": {
        "enable_metrics": "enable_metrics",
        "metrics_interval": "metrics_interval",
        "slow_query_log": "slow_query_log",
        "query_stats": "query_stats",
    },
}
