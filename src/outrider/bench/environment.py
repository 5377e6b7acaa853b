"""Records the environment of a measurement: versions, device, commit, command."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from outrider.kernels.machine import cpu_name

PACKAGES = (
    "outrider",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "llama-cpp-python",
    "openvino-genai",
    "openvino",
)


def environment(command: str | None = None) -> dict[str, Any]:
    """Collect plain data about this machine and this installation.

    Args:
        command: command line of the run; None uses that of this process.
    """
    return {
        "command": command or shlex.join(["outrider", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "device": _device(),
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "logical_cpus": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def _commit() -> str | None:
    """Return the commit of the source, with `+changes` if files differ from it; None outside
    git.
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str:
    here = Path(__file__).parents[1]
    return subprocess.run(
        ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
