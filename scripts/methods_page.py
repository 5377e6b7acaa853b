"""Write docs/methods.md: records of all methods, with their measurements and tests.

python -m scripts.methods_page            # writes the page
python -m scripts.methods_page --check    # exits 1 where it is not current
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.protocols.method import Method
from outrider.strategy.catalogue import KINDS, names, records

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/methods.md"
RESULTS = ("results.md", "negative-results.md")

_HEAD = """# Methods

<!-- Written by `python -m scripts.methods_page`; do not edit. -->

All methods that `outrider.load` and the command line accept by name. `outrider methods NAME` shows
the options of a method. The [glossary](glossary.md) defines the terms.

- *Promise*: `identical` is the undrafted text, token for token; `distribution` is another sample of
  the target's distribution; `lossy` is a text that may differ, with its changes counted. A drafter
  never lowers the promise of the rule. Where the target rounds a row differently beside other rows
  (PyTorch in fewer than 64 bits), `identical` becomes `identical up to rounding` in every result.
- *Memory*: n is the number of tokens, V the size of the vocabulary; figures are in bytes.
- *Measured*: the row of the method in the largest table that compares it, and links to every
  section about it. An empty cell means that nothing is measured yet.
"""

_TITLES = {
    "drafter": ("Drafters", "`--drafter`, `load(drafter=...)`: methods that propose tokens."),
    "growth": ("Growths", "`--growth`, `load(growth=...)`: how the draft model grows trees."),
    "rule": ("Rules", "`--rule`, `load(rule=...)`: decides which drafted tokens are kept."),
    "policy": ("Policies", "`--policy`, `load(policy=...)`: decides how much a round drafts."),
    "selector": ("Selectors", "`--selector`: decides which chunks of a long input are read."),
    "guidance": ("Guidance", "Methods that change the logits of the target."),
    "kv-policy": (
        "Policies of the cache",
        "`--kv-policy`, `load(kv_policy=...)`, and `--draft-kv-policy` for the models below the "
        "target, where they change no text: which rows of a text a cache keeps.",
    ),
    "constraint": (
        "Constraints",
        "Methods that sample what a constraint allows (`Generator.sample_constrained`).",
    ),
    "search": (
        "Search strategies",
        "`Generator.search(...)`, `outrider generate --search ...`: write several texts or "
        "branches, and return the best ones with scores.",
    ),
    "diffusion": (
        "Rules of masked denoisers",
        "`--denoising`, `load(denoising=...)`: which positions of an answer a round commits.",
    ),
    "values": (
        "Values in place of tokens",
        "`outrider draw`: sequences of real vectors, such as the patches of an image.",
    ),
    "learner": (
        "Learners",
        "`--learn`, `load(learn=...)`: train the draft model while requests run.",
    ),
    "model": ("Models around models", "Methods that change the target itself, and so the text."),
}

_ROW_NAMES = {"draft": "model"}
_KNOWN = {name for kind in KINDS for name in names(kind)}
_FEWEST = 3
"""A table is a comparison if it names at least this many methods."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page of results.

    Attributes:
        page: its file.
        title: its heading, without `#`.
        text: the lines up to the next heading.
    """

    page: str
    title: str
    text: str

    @property
    def link(self) -> str:
        """A Markdown link to it."""
        title = re.sub(r"\s*\([^()]*\)$", "", self.title).replace("`", "")
        return f"[{title}]({self.page}#{anchor(self.title)})"


def page() -> str:
    """The whole page."""
    sections = list(_sections())
    tests = marked_tests()
    parts = [_HEAD]
    for kind in KINDS:
        title, what = _TITLES[kind]
        parts.append(f"\n## {title}\n\n{what}\n")
        parts.append("| Method | Paper | Promise | Needs | Memory | Measured | Tests |")
        parts.append("|---|---|---|---|---|---|---|")
        parts += [_row(one, sections, tests[one.name]) for one in records(kind)]
    return "\n".join(parts) + "\n"


def marked_tests() -> dict[str, list[str]]:
    """Method -> the files of tests that are marked with it: `@pytest.mark.method(name)`."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in _marks(ast.parse(file.read_text(encoding="utf-8"))):
            if file.relative_to(ROOT).as_posix() not in found[name]:
                found[name].append(file.relative_to(ROOT).as_posix())
    return found


def _marks(tree: ast.Module) -> Iterator[str]:
    """The methods that a module's tests are marked with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.method":
            [name] = node.args
            if isinstance(name, ast.Constant):
                yield str(name.value)


def _row(one: "Method[Any]", sections: list[Section], tests: list[str]) -> str:
    paper = one.paper
    source = f"[{paper}]({paper.url})" if paper and paper.url else str(paper or "")
    links = ", ".join(f"[{Path(test).stem}](../{test})" for test in tests)
    measured = "<br>".join(_measured(one, sections))
    cells = (
        f"`{one.name}`: {one.summary}",
        source,
        str(one.promise),
        one.needs,
        one.memory,
        measured,
        links,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _measured(one: "Method[Any]", sections: list[Section]) -> Iterator[str]:
    """The row of the widest table that has one, then links to all sections about the method."""
    rows = [row for section in sections for row in _rows(section, one.name)]
    if rows:
        yield max(rows, key=lambda row: row.methods).text
    links = [section.link for section in sections if _is_about(section, one)]
    if links:
        yield ", ".join(links)


def _is_about(section: Section, one: "Method[Any]") -> bool:
    if next(_rows(section, one.name), None) is not None:
        return True
    if section.page == RESULTS[0]:
        return f"`{one.cls.__name__}`" in section.text or f"`{one.name}`" in section.title
    file = f"{one.cls.__module__.removeprefix('outrider.').replace('.', '/')}.py"
    return file in section.title


@dataclass(frozen=True, slots=True)
class Row:
    """One row of figures, as text, and how many methods its table compares."""

    text: str
    methods: int


def _rows(section: Section, name: str) -> Iterator[Row]:
    """The rows of the method in tables that compare several methods."""
    for table in re.findall(r"(?:^\|.*\n)+", section.text, re.M):
        header, _, *lines = [_cells(line) for line in table.splitlines()]
        named = [_row_name(cells[0]) for cells in lines]
        compared = len({*named} & _KNOWN)
        if compared < _FEWEST:
            continue
        for cells, own in zip(lines, named, strict=True):
            if own == name:
                pairs = zip(header[1:], cells[1:], strict=False)
                yield Row("; ".join(f"{head} {value}".strip() for head, value in pairs), compared)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _row_name(cell: str) -> str:
    """The method that a row is about: `draft:tree=eagle2` is about the growth `eagle2`."""
    plain = cell.strip("`* ")
    for prefix in ("draft:tree=", "draft:growth="):
        plain = plain.removeprefix(prefix)
    return _ROW_NAMES.get(plain, plain)


def _sections() -> Iterator[Section]:
    for name in RESULTS:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        parts = re.split(r"^#+ (.+)$", text, flags=re.M)
        for title, body in zip(parts[1::2], parts[2::2], strict=True):
            yield Section(name, title, body)


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
