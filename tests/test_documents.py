"""The Python in the documents runs, and what they link to is there."""

import inspect
import re
from pathlib import Path

import pytest

from outrider.decoding import run_round

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXECUTED = [
    ("docs/guide-adding-a-drafter.md", "# Adding a drafter"),
    ("docs/guide-testing.md", "# Testing"),
    ("docs/guide-python.md", "## Put it together yourself"),
    ("docs/guide-who-drafts.md", "## By hand"),
    ("docs/guide-drafters.md", "## Trees"),
]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_compile(document: Path) -> None:
    for block in python_blocks(document.read_text(encoding="utf-8")):
        compile(block, document.name, "exec")


@pytest.mark.parametrize(("name", "heading"), EXECUTED)
def test_what_follows_the_heading_runs(name: str, heading: str) -> None:
    _, _, section = (ROOT / name).read_text(encoding="utf-8").partition(heading)
    blocks = python_blocks(section)
    assert blocks
    exec(compile("\n".join(blocks), name, "exec"), {"__name__": "guide"})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_the_round_is_the_one_of_the_source(document: str) -> None:
    """Both pages show `run_round`; it fits on one page."""
    code = inspect.getsource(run_round)
    assert code in python_blocks((ROOT / document).read_text(encoding="utf-8"))
    assert len(code.splitlines()) <= 30
