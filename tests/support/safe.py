"""Models with encrypted columns, and keys."""

from __future__ import annotations

import uuid
from typing import Annotated

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, L1Policy, column

K1, K2, K3 = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
OLD, NEW, BOTH = {"k1": K1}, {"k2": K2}, {"k2": K2, "k1": K1}


class Base(DeclarativeBase):
    pass


class Patient(Base):
    """An encrypted text with a unique blind index, one with a blind index, and one with neither."""

    __tablename__ = "patients"
    id: Mapped[int] = column(primary_key=True)
    ward: Mapped[str] = column(String(20))
    email: Mapped[str | None] = column(encrypted=True, blind_index=True, unique=True)
    city: Mapped[str | None] = column(encrypted=True, blind_index=True)
    notes: Mapped[str | None] = column(encrypted=True)


class Token(Base):
    """Ciphertext that is bound to its row."""

    __tablename__ = "tokens"
    id: Mapped[uuid.UUID] = column(primary_key=True, default=uuid.uuid4)
    secret: Mapped[str | None] = column(encrypted=True, bind="row")
    label: Mapped[str | None] = column(String(20))


class Seat(Base):
    """A composite key, and ciphertext that is bound to it."""

    __tablename__ = "seats"
    hall: Mapped[str] = column(String(10), primary_key=True)
    number: Mapped[int] = column(primary_key=True, autoincrement=False)
    guest: Mapped[str | None] = column(encrypted=True, bind="row")


class Open(Base):
    """Lies readable in L2, on purpose, and is not kept in L1."""

    __tablename__ = "open_notes"
    __cache__ = CachePolicy(l1=L1Policy(enabled=False), l2_plaintext=True)
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str] = column(encrypted=True)


class Shut(Base):
    """Lies as ciphertext in L2, and is not kept in L1."""

    __tablename__ = "shut_notes"
    __cache__ = CachePolicy(l1=L1Policy(enabled=False))
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str] = column(encrypted=True)
    bound: Mapped[str | None] = column(encrypted=True, bind="row")
    rare: Mapped[str | None] = column(encrypted=True, omit_cache=True)


Secret = Annotated[str, mapped_column(String(8), info={"datalayer": {"encrypted": True}})]


class Plainly(Base):
    """The same flags on a plain mapped_column, a column of another name, and a declared length."""

    __tablename__ = "plainly"
    id: Mapped[int] = mapped_column(primary_key=True)
    pin: Mapped[Secret | None]
    mail: Mapped[str | None] = mapped_column(
        "e_mail", info={"datalayer": {"encrypted": True, "blind_index": True, "blind_unique": True}}
    )
