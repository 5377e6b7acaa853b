"""A new drafter is one file and one entry: the proof, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import outrider

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guide-adding-a-drafter.md"
MATRIX = "tests/exactness/test_roster.py"

CHECK = """
import sys
import pytest
failed = pytest.main(["-p", "no:cacheprovider", "MATRIX", "-k", "[echo"])

import outrider
from outrider.bench.strategies import parse_strategies
from outrider.cli.app import main
from scripts.methods_page import page

assert outrider.__file__.startswith(sys.argv[1]), outrider.__file__
words = ["Once upon a time", "--max-new-tokens", "12", "--seed", "1", "--json", "--drafter"]
assert main(["methods", "echo", "--json"]) == 0
assert main(["generate", *words, "echo"]) == 0
assert main(["generate", *words, "switch(sam,echo)"]) == 0
assert main(["generate", *words, "none"]) == 0
assert parse_strategies("echo")[1].options["drafter"] == "echo"
assert "| `echo`: " in page()
sys.exit(failed)
""".replace("MATRIX", MATRIX)


def copied(folder: Path) -> Path:
    """The package, the matrix and the pages, with the weights linked."""
    source = Path(outrider.__file__).parent
    for name in ("tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    skipped = shutil.ignore_patterns("__pycache__", "families")
    shutil.copytree(source, folder / "src/outrider", ignore=skipped)
    (folder / "src/outrider/families").symlink_to(source / "families")
    return folder / "src/outrider"


def test_a_drafter_is_one_file_and_one_entry(tmp_path: Path) -> None:
    """That of the guide: it appears everywhere, and passes the matrix."""
    package = copied(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    last = next(i for i, block in enumerate(blocks) if "METHOD = " in block)
    (package / "drafters/copying/echo.py").write_text("\n\n".join(blocks[: last + 1]))
    catalogue = package / "strategy/catalogue.py"
    entry = '    "drafters.none",\n'
    text = catalogue.read_text(encoding="utf-8")
    catalogue.write_text(text.replace(entry, f'    "drafters.copying.echo",\n{entry}'))

    paths = os.pathsep.join([str(tmp_path / "src"), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 6 and "failed" not in done.stdout
    texts = re.findall(r'"token_ids": (\[.*?\])', done.stdout)
    assert len(texts) == 3 and len(set(texts)) == 1
