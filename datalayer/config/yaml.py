"""Settings from a YAML file, flat or in sections, with variables of the environment in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..contracts.suggest import hint
from ..errors import ConfigError, MissingDriverError
from .forget import forgetful
from .kinds import Keys
from .option import Option
from .secret import from_base64
from .sections import SECTIONS, Tree
from .settings import Settings
from .units import refused

_REFERENCE = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-[^{}]*)?\})?")


@forgetful
def from_yaml(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings in a YAML file. Needs ``datalayer[yaml]``; MissingDriverError says so.

    Keys are the options at the top level, or the sections ``postgres``, ``cache``, ``migrations``, ``vector`` and
    ``monitoring``, alone or under ``storage``. Texts may contain ``${VAR}`` and ``${VAR:-default}``; ``$$`` is one
    ``$``; a value that is empty or becomes empty counts as not set. ConfigError names the file and the key, never a
    secret.
    """
    source = Path(path)
    return _File(source, environ).settings(_load(source))


def _load(source: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingDriverError(
            f"{source}: reading YAML needs PyYAML, which is not installed; run: pip install 'datalayer[yaml]'"
        ) from error
    try:
        text = source.read_text(encoding="utf-8")
        _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), source)
        return yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{source}: cannot be read: {reason}; expected a YAML file") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        # Not chained and not quoted: PyYAML's texts contain the lines around the mistake.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}: found text that is not YAML{place}, expected a mapping of options") from None


def _refuse_duplicates(root: Any, source: Path) -> None:
    """ConfigError for a key that a mapping has twice: PyYAML would take the last one without a word."""
    nodes, visited = [root] if root is not None else [], set()
    while nodes:
        node = nodes.pop()
        if id(node) in visited or not isinstance(node.value, list):
            continue
        visited.add(id(node))
        names = [pair[0].value for pair in node.value if isinstance(pair, tuple)]
        for pair in node.value:
            nodes.extend(pair if isinstance(pair, tuple) else [pair])
            if isinstance(pair, tuple) and isinstance(pair[0].value, str) and names.count(pair[0].value) > 1:
                line = pair[0].start_mark.line + 1
                raise ConfigError(
                    f"{source}: found the key {pair[0].value!r} twice, first at line {line}, expected it once"
                )


class _File:
    """One file being read."""

    def __init__(self, source: Path, environ: Mapping[str, str]) -> None:
        self._source, self._environ = source, environ

    def settings(self, content: object) -> Settings:
        options = Settings.options()
        tree: Tree = {**{name: name for name in options}, **SECTIONS, "storage": SECTIONS}
        values: dict[str, Any] = {}
        for path, name, raw in self._leaves("", content, tree):
            found = self._value(options[name], raw, path)
            if found is not None and values.setdefault(name, found) != found:
                raise self._error(path, f"{name} has another value elsewhere in the file, expected it once")
        try:
            return Settings(**values)
        except ConfigError as error:
            # Each value is right by itself here: what is wrong is a combination.
            raise ConfigError(f"{self._source}: {error}") from None

    def _leaves(self, path: str, content: object, known: Tree) -> Iterator[tuple[str, str, object]]:
        """Path, option and raw value of everything in a part of the file."""
        for key, value in self._mapping(path, content).items():
            inner = f"{path}.{key}" if path else str(key)
            target = known.get(key)
            if target is None:
                raise self._error(inner, f"no option has this name; {hint(str(key), known)}")
            elif isinstance(target, str):
                yield inner, target, value
            elif isinstance(target, frozenset):
                self._check_word(inner, value, target)
            else:
                yield from self._leaves(inner, value, target)

    def _mapping(self, path: str, value: object) -> dict[Any, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error(path or "the file", f"found a {type(value).__name__}, expected a mapping of options")
        return value

    def _check_word(self, path: str, value: object, words: frozenset[str]) -> None:
        word = self._expand(value, path) if isinstance(value, str) else value
        if word is not None and word not in words:
            raise refused(self._label(path), word, f"{' or '.join(map(repr, sorted(words)))}, which is all there is")

    def _value(self, option: Option[Any, Any], raw: object, path: str) -> Any:
        """The value that the option keeps, or None when there is none."""
        label = self._label(path)
        if isinstance(raw, str):
            text = self._expand(raw, path)
            return option.kind.from_text(text, label) if text.strip() else None
        if isinstance(raw, list):
            raw = [self._expand(item, path) if isinstance(item, str) else item for item in raw]
        if isinstance(raw, dict) and isinstance(option.kind, Keys):
            raw = {key: self._key(key, item, path) for key, item in raw.items()}
        return None if raw is None else option.kind.parse(raw, label)

    def _key(self, name: object, raw: object, path: str) -> object:
        return from_base64(self._expand(raw, path), name=f"{self._label(path)}.{name}") if isinstance(raw, str) else raw

    def _expand(self, text: str, path: str) -> str:
        return _REFERENCE.sub(lambda match: self._resolve(match, path), text)

    def _resolve(self, match: re.Match[str], path: str) -> str:
        name, default = match.groups()
        if match.group() == "$$":
            return "$"
        if name is None:
            raise self._error(
                path, "found '${' that begins no reference, expected ${VAR} or ${VAR:-default}, or $$ for $"
            )
        if default is not None:
            return self._environ.get(name) or default[2:]
        if name not in self._environ:
            raise self._error(
                path, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        return self._environ[name]

    def _label(self, path: str) -> str:
        return f"{self._source}: {path}"

    def _error(self, path: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._label(path)}: {problem}")
