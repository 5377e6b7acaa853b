"""The documents: their Python runs, their links lead somewhere, their words are agreed."""

import inspect
import re
from pathlib import Path

import pytest
from scripts.methods_page import anchor

from outrider.decoding import run_round

ROOT = Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/**/*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
EXECUTED = [
    ("docs/guide-adding-a-drafter.md", "# Adding a drafter"),
    ("docs/guide-testing.md", "# Testing"),
    ("docs/guide-python.md", "## Put it together yourself"),
    ("docs/guide-who-drafts.md", "## By hand"),
    ("docs/guide-drafters.md", "## Trees"),
]
AVOIDED = re.compile(r"\b(spelt|mends?|mended|luck|nobody|dearer|likelier)\b", re.I)
"""Words with a plainer one; tests/test_terms.py has the retired terms."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {anchor(heading) for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_python_blocks_compile(document: Path) -> None:
    for block in python_blocks(document.read_text(encoding="utf-8")):
        compile(block, document.name, "exec")


@pytest.mark.parametrize(("name", "heading"), EXECUTED)
def test_what_follows_the_heading_runs(name: str, heading: str) -> None:
    _, _, section = (ROOT / name).read_text(encoding="utf-8").partition(heading)
    blocks = python_blocks(section)
    assert blocks
    exec(compile("\n".join(blocks), name, "exec"), {"__name__": "guide"})


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        path, _, place = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (
            place and target.suffix == ".md" and place not in anchors(target)
        ):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", site, re.M))
    assert {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} <= listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_words_are_those_of_the_glossary(document: Path) -> None:
    text = without_code(document.read_text(encoding="utf-8"))
    assert AVOIDED.findall(text) == []


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_the_round_is_the_one_of_the_source(document: str) -> None:
    """Both pages show `run_round`; it fits on one page."""
    code = inspect.getsource(run_round)
    assert code in python_blocks((ROOT / document).read_text(encoding="utf-8"))
    assert len(code.splitlines()) <= 32
