"""The layout of the package: what the architecture page says, names of files, and their sizes."""

import re
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

import outrider
from outrider.strategy.catalogue import KINDS, name_of, records

ROOT = Path(__file__).parents[1]
SOURCE = Path(outrider.__file__).parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
MOST_LINES, MEDIAN_LINES, MOST_MODULES = 400, 150, 15


def packages(folder: Path) -> list[str]:
    """Dotted paths as they are written on the page: `models/llama/`."""
    found = [file.parent.relative_to(folder) for file in folder.rglob("__init__.py")]
    return sorted(f"{path.as_posix()}/" for path in found if path.parts)


def named() -> set[str]:
    """The packages in the first column of the page's second table."""
    section = PAGE.partition("## Packages")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_/]+/)` \|", section, re.M))


def test_every_package_is_named_and_every_named_package_exists() -> None:
    assert named() == set(packages(SOURCE))


def test_files_that_the_page_names_exist() -> None:
    section = PAGE.partition("## Packages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_/]+/)` \| (.*) \|$", section, re.M)
    for package, text in rows:
        for file in re.findall(r"`([a-z0-9_]+\.py)`", text):
            assert (SOURCE / package / file).is_file(), f"{package}{file}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_has_a_file_of_its_name(kind: str) -> None:
    for module, one in zip(KINDS[kind], records(kind), strict=True):
        assert one.name == name_of(module)
        assert import_module(f"outrider.{module}").METHOD is one


def test_files_are_short() -> None:
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for folder in ("src", "tests", "benchmarks", "scripts")
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}
    assert median(size for name, size in sizes.items() if name.startswith("src")) < MEDIAN_LINES


def test_folders_are_small() -> None:
    crowded = {}
    for folder in ("src", "tests", "benchmarks", "scripts"):
        for path in [ROOT / folder, *(p for p in (ROOT / folder).rglob("*") if p.is_dir())]:
            count = len([f for f in path.glob("*.py") if f.name != "__init__.py"])
            if count > MOST_MODULES:
                crowded[str(path.relative_to(ROOT))] = count
    assert crowded == {}


def test_paths_in_texts_exist() -> None:
    """Python files that documents, docstrings and comments name with their folder."""
    every = [
        file.relative_to(ROOT).as_posix()
        for folder in ("src", "tests", "benchmarks", "scripts")
        for file in (ROOT / folder).rglob("*.py")
    ]
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *SOURCE.rglob("*.py")]
    missing = [
        f"{text.relative_to(ROOT)}: {path}"
        for text in texts
        for path in re.findall(r"`((?:[\w-]+/)+\w+\.py)`", text.read_text(encoding="utf-8"))
        if not any(name == path or name.endswith(f"/{path}") for name in every)
    ]
    assert missing == []


def test_folders_in_texts_exist() -> None:
    """Folders of tests, benchmarks and sources that documents name."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = {
        (text.name, path)
        for text in texts
        for path in re.findall(
            r"(?<![\w/.-])((?:tests|benchmarks|src)/[\w/]*\w)", text.read_text(encoding="utf-8")
        )
    }
    missing = [
        (text, path)
        for text, path in named
        if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()
    ]
    assert missing == []


@pytest.mark.parametrize("package", ["", ".context", ".drafters", ".strategy"])
def test_names_that_are_imported_on_first_use_are_there(package: str) -> None:
    module = import_module(f"outrider{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
