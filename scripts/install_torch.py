"""Install the torch that `constraints.txt` pins: the CPU build where there is no NVIDIA GPU.

On Linux the plain package brings several gigabytes of CUDA libraries, which a machine without a
GPU never uses. The CPU build has the local version `+cpu`; it is asked for by that name, from the
indexes pip is configured with and, where it can be reached, from PyTorch's own.
"""

import importlib.util
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def pinned() -> str:
    """The requirement that `constraints.txt` pins, `torch==...`."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def reachable(url: str) -> bool:
    """Whether `url` answers within five seconds."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=5):
            return True
    except OSError:
        return False


def install(*arguments: str, quiet: bool = False) -> bool:
    """Run `pip install`; torch's own dependencies come later, with the project's."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *arguments]
    return subprocess.run(command, capture_output=quiet, check=False).returncode == 0


def main() -> int:
    """Install the first build that can be had; the exit status says whether there was one."""
    if importlib.util.find_spec("torch"):
        return 0
    torch = pinned()
    print(f"installing {torch}", flush=True)
    if sys.platform == "linux" and not shutil.which("nvidia-smi"):
        index = ["--extra-index-url", CPU_INDEX] if reachable(CPU_INDEX) else []
        if install(f"{torch}+cpu", *index, quiet=True):
            return 0
    return 0 if install(torch) else 1


if __name__ == "__main__":
    sys.exit(main())
