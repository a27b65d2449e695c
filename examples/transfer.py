"""Money between accounts: transactions that are run again, staged writes, a bulk load, hooks.

Runs without any server: ``python examples/transfer.py``. With ``DATALAYER_URL`` (``postgresql://localhost/bank``) it
runs there, in tables of its own that it drops at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Hooks, Model, Session, Timestamps, TransactionFailed, column


def no_debts(account: Account) -> None:
    if (account.balance or 0) < 0:  # None: this write leaves the balance alone
        raise ValueError(f"account {account.id} would be overdrawn")


class Account(Timestamps, Model):
    __tablename__ = "example_accounts"
    __cache__ = CachePolicy(hooks=Hooks(before_set=no_debts))
    id: Mapped[int] = column(primary_key=True)
    owner: Mapped[str]
    balance: Mapped[int] = column(default=0)


class Payment(Timestamps, Model):
    __tablename__ = "example_payments"
    id: Mapped[int] = column(primary_key=True)
    payer: Mapped[int]
    payee: Mapped[int]
    amount: Mapped[int]


def ledger(count: int) -> Iterator[dict[str, object]]:
    """Ten rows or ten million: they are never all in memory."""
    for id in range(1, count + 1):
        yield {"id": id, "owner": f"owner {id}", "balance": 100}


def transfer(session: Session, payer: int, payee: int, amount: int) -> None:
    """One unit of work. It touches nothing but the session, so it may be run twice."""
    session.get_one(Account, payer).balance -= amount
    session.get_one(Account, payee).balance += amount
    session.add(Payment(payer=payer, payee=payee, amount=amount))


def pay_round(layer: DataLayer, size: int, start: int) -> None:
    for step in range(size):
        payer = (start + step) % size + 1
        payee = (start + 2 * step + 1) % size + 1
        if payer != payee:
            # SERIALIZABLE: what was read is still true at the commit, else the function runs again.
            layer.run(
                lambda session, a=payer, b=payee: transfer(session, a, b, 5), isolation="SERIALIZABLE", retries=50
            )


def main() -> None:
    with DataLayer(os.environ.get("DATALAYER_URL", "sqlite://"), models=[Account, Payment]) as layer:
        Model.metadata.create_all(layer.engine, tables=[Account.__table__, Payment.__table__])
        try:
            show(layer)
        finally:
            Model.metadata.drop_all(layer.engine, tables=[Account.__table__, Payment.__table__])


def show(layer: DataLayer) -> None:
    accounts, payments = layer.repository(Account), layer.repository(Payment)

    print("loaded:", accounts.bulk_load(ledger(2_500), progress=True))
    changed = [{"id": 1, "owner": "ann"}, {"id": 2, "owner": "bob"}]
    print("written over:", accounts.bulk_load(changed, on_conflict="update"), accounts.get_one(1).balance)

    threads = [threading.Thread(target=pay_round, args=(layer, 6, start)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        "money after",
        payments.count(),
        "payments:",
        sum(a.balance for a in accounts.get_many(range(1, 2_501)).values()),
    )

    try:
        layer.run(lambda session: transfer(session, 1, 2, 1_000_000))
    except ValueError as refused:
        print("refused:", refused)

    try:
        with layer.begin(read_only=True, timeout="5s") as session:
            transfer(session, 3, 4, 1)
    except TransactionFailed as failed:
        print("read-only:", "only read" in str(failed), "run again:", failed.retryable)

    staged = layer.transaction().set(Account(id=1, balance=0)).update(Account, 2, owner="bea").delete(Account, 2_500)
    print("staged:", len(staged), "before:", accounts.get_one(2).owner)
    staged.commit()
    print("committed:", accounts.get_one(1).balance, accounts.get_one(2).owner, accounts.get(2_500))


if __name__ == "__main__":
    main()
