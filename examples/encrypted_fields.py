"""Encrypted columns: what the database sees, looking up by value, and changing the key while the application runs.

python examples/encrypted_fields.py        # SQLite, no server
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text
from sqlalchemy.orm import Mapped

from datalayer import AlreadyExistsError, DataLayer, DecodeError, Model, Q, column


class Patient(Model):
    __tablename__ = "example_patients"
    id: Mapped[int] = column(primary_key=True)
    email: Mapped[str] = column(encrypted=True, blind_index=True, unique=True)
    city: Mapped[str | None] = column(encrypted=True, blind_index=True)
    notes: Mapped[str | None] = column(encrypted=True, bind="row")


def stored(layer: DataLayer, what: str = "notes") -> str:
    with layer.engine.connect() as connection:
        return str(connection.execute(text(f"SELECT {what} FROM example_patients WHERE id = 1")).scalar_one())


def write_and_find(layer: DataLayer) -> None:
    layer.migrate()
    patients = layer.repository(Patient)
    patients.create(Patient(id=1, email="ann@example.com", city="Porto", notes="allergic to nuts"))
    patients.create(Patient(id=2, email="bob@example.com", city="Porto"))
    print(f"the application reads {patients.get_one(1).notes!r}")
    print(f"the database holds    {stored(layer)[:40]}...")
    found = patients.get_by(email="ann@example.com")
    print(f"found by e-mail:      patient {found.id if found else None}")
    print(f"found by city:        {[p.id for p in patients.search(Q(Patient).where(city='Porto').order_by('id'))]}")
    try:
        patients.create(Patient(id=3, email="ann@example.com"))
    except AlreadyExistsError:
        print("unique:               one patient an e-mail address")
    with layer.engine.begin() as connection:
        connection.execute(
            text("UPDATE example_patients SET notes = (SELECT notes FROM example_patients WHERE id = 1)")
        )
    try:
        patients.get(2, consistency="database")
    except DecodeError as error:
        print(f"moved to another row: {error}")
    patients.set(Patient(id=2, email="bob@example.com", notes=None))  # an upsert reads nothing


def change_the_key(layer: DataLayer) -> None:
    status = layer.crypto.status()
    print(f"\nbefore rotation:      {[dict(c.keys) for c in status.columns]}")
    report = layer.crypto.rotate()
    print(f"rotated:              {report.rotated} rows, complete: {report.ok}")
    print(f"verified:             {layer.crypto.verify().checked} values")


def main() -> None:
    old, new = os.urandom(32), os.urandom(32)
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'patients.db'}"
        with DataLayer(url, models=[Patient], encryption_keys={"2024": old}) as layer:
            write_and_find(layer)
        # The new key first: it encrypts. The old one stays for reading until everything is under the new one.
        with DataLayer(url, models=[Patient], encryption_keys={"2025": new, "2024": old}) as layer:
            change_the_key(layer)
        with DataLayer(url, models=[Patient], encryption_keys={"2025": new}) as layer:
            print(f"without the old key:  {layer.repository(Patient).get_one(1).notes!r}")


if __name__ == "__main__":
    main()
