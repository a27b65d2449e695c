"""The code of the pages about stores, tables, layers and observation runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks() -> list[object]:
    found = []
    for page in ("kv", "layers", "observability", "tables"):
        texts = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
        assert texts, page
        found += [pytest.param(text, id=f"{page}-{number}") for number, text in enumerate(texts)]
    return found


@pytest.mark.parametrize("code", blocks())
def test_the_code_of_the_page_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "test_page.py"
    script.write_text(code)
    with_pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if "class Test" in code else []
    done = subprocess.run(
        [sys.executable, "-W", "error", *with_pytest, str(script)],
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
