"""A disk in memory that remembers what a power cut may lose, and the enumeration of everything it may leave.

The model: data written to a file is safe once the file was synced after it, a change of a folder once that folder was.
Until then each of them may or may not have reached the medium, in any combination, and the last piece of data may have
been torn. A rename is done or not done. What a lost folder contained is lost.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Tree = dict[str, bytes | None]
"""Every path there is: the content of a file, None for a folder."""


class Op(NamedTuple):
    """One call. ``folder`` is whose sync makes it safe, ``file`` the number of the file concerned."""

    kind: str
    folder: str = ""
    file: int = -1
    name: str = ""
    old: str = ""
    data: bytes = b""


class PowerCutDisk:
    """A :class:`datalayer.kv.file.disk.Disk` in memory. ``log`` has everything since the tree it began with."""

    def __init__(self, tree: Tree | None = None) -> None:
        self.base: Tree = dict(tree or {"/": None})
        self.log: list[Op] = []
        self.names: dict[str, int | None] = {}
        self.files: dict[int, bytearray] = {}
        self.children: dict[str, set[str]] = {}
        self.handles: dict[int, list[int]] = {}
        self.locked = False
        self._next = itertools.count(1)
        for path, data in sorted(self.base.items()):
            if data is None:
                self.names[path] = None
                self.children[path] = set()
            else:
                self.names[path] = number = next(self._next)
                self.files[number] = bytearray(data)
            if path != "/":
                self.children[folder_of(path)].add(path)

    @classmethod
    def after(cls, base: Tree, log: list[Op]) -> PowerCutDisk:
        """The disk of a machine that stayed up: all of the log is visible, and what was not synced still is not."""
        disk = cls(base)
        for op in log:
            disk._repeat(op)
        disk.log = list(log)
        disk._next = itertools.count(max([*disk.files, 0]) + 1)
        return disk

    def note(self, what: str) -> None:
        """Put a mark into the log."""
        self.log.append(Op("note", name=what))

    # -- Disk --------------------------------------------------------------------------------------------------------

    def make_dir(self, path: str) -> None:
        if path in self.names:
            raise FileExistsError(17, "exists", path)
        self._need(folder_of(path))
        self._add(path, None)
        self.children[path] = set()
        self.log.append(Op("mkdir", folder_of(path), name=path))

    def list_dir(self, path: str) -> list[str]:
        self._need(path)
        return [child.rpartition("/")[2] for child in sorted(self.children[path])]

    def exists(self, path: str) -> bool:
        return path in self.names

    def size(self, path: str) -> int:
        return len(self.files[self._file(path)])

    def create(self, path: str) -> int:
        if path in self.names:
            raise FileExistsError(17, "exists", path)
        self._need(folder_of(path))
        number = next(self._next)
        self.files[number] = bytearray()
        self._add(path, number)
        self.log.append(Op("create", folder_of(path), number, path))
        return self._handle(number)

    def open(self, path: str) -> int:
        return self._handle(self._file(path))

    def read(self, file: int, size: int) -> bytes:
        number, at = self.handles[file]
        data = bytes(self.files[number][at : at + size])
        self.handles[file][1] += len(data)
        return data

    def write(self, file: int, data: bytes | memoryview) -> None:
        number = self.handles[file][0]
        self.files[number] += data
        self.log.append(Op("write", file=number, data=bytes(data)))

    def sync(self, file: int) -> None:
        self.log.append(Op("sync", file=self.handles[file][0]))

    def close(self, file: int) -> None:
        del self.handles[file]

    def rename(self, old: str, new: str) -> None:
        number = self._file(old)
        self._need(folder_of(new))
        self._drop(old)
        self._add(new, number)
        self.log.append(Op("rename", folder_of(new), number, new, old))

    def remove(self, path: str) -> None:
        number = self._file(path)
        self._drop(path)
        self.log.append(Op("remove", folder_of(path), number, path))

    def sync_dir(self, path: str) -> None:
        self._need(path)
        self.log.append(Op("sync_dir", path))

    def lock(self, path: str) -> int:
        if self.locked:
            raise BlockingIOError(11, "locked", path)
        self.locked = True
        return 0

    def unlock(self, file: int) -> None:
        self.locked = False

    def _repeat(self, op: Op) -> None:
        if op.kind == "write":
            self.files[op.file] += op.data
        elif op.kind == "mkdir":
            self._add(op.name, None)
            self.children[op.name] = set()
        elif op.kind == "create":
            self.files[op.file] = bytearray()
            self._add(op.name, op.file)
        elif op.kind == "rename":
            self._drop(op.old)
            self._add(op.name, op.file)
        elif op.kind == "remove":
            self._drop(op.name)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _need(self, path: str) -> None:
        if self.names.get(path, 0) is not None:
            raise FileNotFoundError(2, "no such folder", path)

    def _file(self, path: str) -> int:
        number = self.names.get(path)
        if number is None:
            raise FileNotFoundError(2, "no such file", path)
        return number

    def _handle(self, number: int) -> int:
        handle = next(self._next)
        self.handles[handle] = [number, 0]
        return handle

    def _add(self, path: str, number: int | None) -> None:
        self.names[path] = number
        self.children[folder_of(path)].add(path)

    def _drop(self, path: str) -> None:
        del self.names[path]
        self.children[folder_of(path)].discard(path)


def folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


@dataclass
class PowerCut:
    """Everything that may be left of ``log`` when the power fails at its end."""

    base: Tree
    log: list[Op]
    limit: int = 9
    samples: int = 120
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def trees(self) -> Iterator[Tree]:
        """Each tree once."""
        seen: set[Any] = set()
        safe = self._safe()
        unsafe = [i for i, op in enumerate(self.log) if not safe[i] and op.kind in CHANGES]
        writes = [i for i in unsafe if self.log[i].kind == "write"]
        for kept in self._subsets(unsafe):
            chosen = [safe[i] or i in kept for i in range(len(self.log))]
            for torn in self._torn(writes, kept):
                tree = tree_after(self.base, self.log, chosen, torn)
                mark = frozenset(tree.items())
                if mark not in seen:
                    seen.add(mark)
                    yield tree

    def _safe(self) -> list[bool]:
        """Which operations a later sync covers."""
        files: set[int] = set()
        folders: set[str] = set()
        safe = [False] * len(self.log)
        for i in range(len(self.log) - 1, -1, -1):
            op = self.log[i]
            if op.kind == "sync":
                files.add(op.file)
            elif op.kind == "sync_dir":
                folders.add(op.folder)
            elif op.kind == "write":
                safe[i] = op.file in files
            else:
                safe[i] = op.folder in folders
        return safe

    def _subsets(self, unsafe: list[int]) -> Iterator[frozenset[int]]:
        if len(unsafe) <= self.limit:
            for size in range(len(unsafe) + 1):
                yield from map(frozenset, itertools.combinations(unsafe, size))
            return
        everything = frozenset(unsafe)
        yield frozenset()
        yield everything
        for i in range(len(unsafe)):
            yield frozenset(unsafe[:i])
            yield frozenset([unsafe[i]])
            yield everything - {unsafe[i]}
        for _ in range(self.samples):
            yield frozenset(i for i in unsafe if self.rng.random() < 0.5)

    def _torn(self, writes: list[int], kept: frozenset[int]) -> Iterator[dict[int, bytes]]:
        """The last unsafe piece of data as it was written, cut in half, and as zeros."""
        yield {}
        last = max((i for i in writes if i in kept), default=None)
        if last is not None:
            data = self.log[last].data
            yield {last: data[: len(data) // 2]}
            yield {last: bytes(len(data))}


CHANGES = {"mkdir", "create", "write", "rename", "remove"}


def tree_after(base: Tree, log: list[Op], kept: list[bool], torn: dict[int, bytes]) -> Tree:
    """The tree when of the log only the kept operations reached the medium."""
    names: dict[str, int | None] = {}
    content: dict[int, bytes] = {}
    numbers = itertools.count(1)
    for path, data in sorted(base.items()):
        names[path] = None if data is None else next(numbers)
        if data is not None:
            content[names[path]] = data  # type: ignore[index]
    for i, op in enumerate(log):
        if not kept[i]:
            continue
        if op.kind == "write":
            content[op.file] = content.get(op.file, b"") + torn.get(i, op.data)
        elif op.kind == "mkdir":
            names[op.name] = None
        elif op.kind == "create":
            names[op.name] = op.file
        elif op.kind == "rename":
            if names.get(op.old) == op.file:
                del names[op.old]
            names[op.name] = op.file
        elif op.kind == "remove" and names.get(op.name) == op.file:
            del names[op.name]
    tree: Tree = {"/": None}
    for path in sorted(names):  # a folder comes before what is in it
        if path != "/" and folder_of(path) in tree and tree[folder_of(path)] is None:
            number = names[path]
            tree[path] = None if number is None else content.get(number, b"")
    return tree
