"""Retired terms: identifiers by AST, prose by whole word."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "scripts")
RETIRED_NAMES = {
    *("law", "laws", "lane", "lanes", "Lane", "unspoken", "eyes", "Eyes", "Sighted", "sighted"),
    *("sightcheck", "Pictured", "pictured", "spell", "streams_of", "lucky", "_Desk", "nap", "vain"),
    *("Plot", "Outlook", "Growing", "mend", "MEND", "Subject", "Sights", "leash", "hearing"),
}
"""Whole identifiers, and the parts of identifiers between underscores."""
RETIRED_WORDS = ("law", "laws", "lane", "lanes", "lucky", "leash", "eyes", "unspoken", "mend")
"""Words of prose: docstrings, comments, messages and pages."""
ALLOWED = re.compile(r"scaling laws?|lucky number", re.I)
HERE = Path(__file__).name


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (f for f in sorted((ROOT / folder).rglob("*.py")) if f.name != HERE)


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def prose(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            yield ALLOWED.sub("", token.string)


def retired_in(text: str) -> list[str]:
    return re.findall(rf"\b(?:{'|'.join(RETIRED_WORDS)})\b", text, re.I)


def test_no_identifier_is_retired() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files()
        for name in names(ast.parse(file.read_text(encoding="utf-8")))
        if not RETIRED_NAMES.isdisjoint({name, *name.split("_"), *name.lower().split("_")})
    }
    assert sorted(found) == []


def test_no_word_is_retired() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in files()
        for text in prose(file.read_text(encoding="utf-8"))
        for word in retired_in(text)
    ]
    assert found == []


def test_no_page_has_a_retired_word() -> None:
    pages = [*ROOT.glob("*.md"), *(p for p in ROOT.glob("docs/*.md"))]
    found = [
        f"{page.relative_to(ROOT)}: {word}"
        for page in pages
        if page.name != "CHANGELOG.md"  # it lists the renames
        for word in retired_in(ALLOWED.sub("", page.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_check_finds_what_is_retired() -> None:
    assert retired_in("its law, a scaling lane") == ["law", "lane"]
    assert "law_of" in set(names(ast.parse("def law_of(lane): return lane.law")))
