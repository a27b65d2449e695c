"""Teams and their players."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, relationship

from datalayer import Model, Timestamps, column


class Team(Model):
    __tablename__ = "teams"

    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str] = column(unique=True)
    created_at: Mapped[dt.datetime] = column(auto_now_add=True)


class Player(Timestamps, Model):
    __tablename__ = "players"

    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None] = column(unique=True, nullable=True)
    team_id: Mapped[int | None] = column(ForeignKey("teams.id", ondelete="SET NULL"), index=True, nullable=True)
    level: Mapped[int] = column(default=1)
    score: Mapped[float] = column(default=0.0)
    profile: Mapped[dict[str, Any] | None] = column(nullable=True)
    team: Mapped[Team | None] = relationship()
