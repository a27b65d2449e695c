"""A data access layer for SQLAlchemy: an in-process cache (L1) and Redis (L2) over PostgreSQL or SQLite (L3).

The map of the house: ``layer`` opens everything; ``repository`` and ``session`` are how rows are read and written;
``tiers`` hold rows, ``coherence`` says which of them may be believed; ``models`` derive all that is known of a class;
``codecs`` make bytes; ``config`` reads settings; ``migrate`` brings the schema up; ``query`` builds statements;
``observe`` counts. ``contracts`` are the interfaces between them and ``errors`` the exceptions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config.settings import Settings
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .layer import DataLayer, explain
from .models.base import Model
from .models.columns import column
from .models.hooks import Hooks
from .models.mixins import SoftDelete, Timestamps, Versioned
from .models.policy import CachePolicy, Index, L1Policy, L2Policy, WriteMode
from .observe.health import Health
from .observe.stats import Stats
from .query.builder import Q
from .query.page import Page
from .repository import Repository
from .session.session import Session
from .session.snapshots import Snapshot
from .transaction import Transaction

if TYPE_CHECKING:
    from .query.interface import Queries
    from .tables.layers import Layers

__version__ = "0.1.0"

__all__ = [
    "CachePolicy",
    "DataLayer",
    "Health",
    "Hooks",
    "Index",
    "L1Policy",
    "L2Policy",
    "Layers",
    "Model",
    "Page",
    "Q",
    "Queries",
    "Repository",
    "Session",
    "Settings",
    "Snapshot",
    "SoftDelete",
    "Stats",
    "Timestamps",
    "Transaction",
    "Versioned",
    "WriteMode",
    "__version__",
    "column",
    "explain",
    *_errors,
]


#: Annexes that many applications never enter.
_ANNEXES = {"Layers": ".tables.layers", "Queries": ".query.interface"}


def __getattr__(name: str) -> Any:
    if name not in _ANNEXES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ANNEXES[name], __name__), name)
