"""The page about the proof lists every mutant that there is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def load(path: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_mutant_is_on_the_page() -> None:
    page = (ROOT / "docs/coherence-proof.md").read_text()
    steps = load("tests/coherence/test_script_mutants.py", "mutants_on_the_page").MUTANTS
    assert f"takes {len(steps)} single steps" in page
    assert [step for step in steps if step.partition(": ")[2] not in page] == []
    source = (ROOT / "tests/scenarios/test_schedules.py").read_text()
    played = source[source.index("PLAYED:") :]
    schedules = [line.split(":")[0].strip() for line in played.splitlines() if line.startswith("    a")]
    assert len(schedules) > 40
    missing = [name for name in schedules if name.isidentifier() and f"`{name}`" not in page]
    assert missing == []
