"""The wheel holds all that runs: an editable install hides what a package lacks."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
Call = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout. The backend comes from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the package index cannot be reached for hatchling")
    assert done.returncode == 0, done.stderr[-2000:]
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def outrider(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """The command line of the wheel, in an environment outside the checkout.

    Dependencies are those of the environment that runs the tests. Its folder is named in a `.pth`
    file of the new one, and `.pth` files in such a folder are not read: the editable install of
    the checkout is not seen.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env/bin/python"
    [packages] = (folder / "env/lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = clean | {"OUTRIDER_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def call(*words: str | Path) -> str:
        command = [python, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert str(packages) in call("-c", "import outrider; print(outrider.__file__)")
    return call


def test_the_wheel_holds_what_is_not_python(wheel: Path) -> None:
    """Every file that git tracks below `src/outrider`, and nothing else but its own records."""
    tracked = subprocess.run(
        ["git", "ls-files", "src/outrider"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.removeprefix("src/") for name in tracked} <= held
    assert {name.rsplit(".", 1)[-1] for name in held} >= {"c", "h", "safetensors", "html", "jsonl"}


def test_demo(outrider: Call) -> None:
    assert "tokens" in outrider("-m", "outrider", "demo", "--tokens", "8", "--threads", "1")


def test_generate_with_compiled_kernels(outrider: Call) -> None:
    short = ["--max-new-tokens", "8", "--threads", "1"]
    assert outrider("-m", "outrider", "generate", "Once upon a time", "--dtype", "int8", *short)
    available = "from outrider import kernels; print(kernels.available())"
    assert outrider("-c", available).strip() == "True"


def test_caption(outrider: Call, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(image)
    words = ["caption", image, "--target", "tiny-vision", "--max-new-tokens", "8"]
    assert outrider("-m", "outrider", *words).strip()


def test_bench_and_its_page(outrider: Call, tmp_path: Path) -> None:
    short = ["--prompts", "1", "--repeats", "1", "--max-new-tokens", "8", "--threads", "1"]
    few = ["--strategies", "lookup", "--workloads", "qa", "--least-tokens", "1"]
    assert "lookup" in outrider("-m", "outrider", "bench", "speed", *few, *short)
    outrider("-m", "outrider", "bench", *few, *short, "--report", tmp_path / "report")
    assert list((tmp_path / "report").glob("*.html"))
