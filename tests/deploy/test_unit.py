"""The systemd unit: systemd's own checks, and its times against those of the server."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from outrider.server.settings import ServerSettings

UNIT = Path(__file__).parents[2] / "deploy/outrider.service"
TEXT = UNIT.read_text(encoding="utf-8")
PROGRAM = "/opt/outrider/bin/outrider"
LARGEST_EXPOSURE = 2.5
"""Of 10, as `systemd-analyze security` counts."""


def settings() -> dict[str, str]:
    """Return the settings of the service, the last where one is repeated."""
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(TEXT)
    return dict(parser["Service"])


def analyze(command: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a check on the unit with a program that exists here."""
    if (found := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze (apt install systemd)")
    file = folder / UNIT.name
    file.write_text(TEXT.replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return subprocess.run([found, command, *options, file], capture_output=True, text=True)


def test_systemd_waits_longer_than_the_server_takes_to_stop() -> None:
    found = settings()
    drain = re.search(r"--shutdown-timeout (\d+)", found["ExecStart"])
    assert drain is not None
    assert float(drain[1]) == ServerSettings().shutdown_timeout
    assert float(found["TimeoutStopSec"]) >= float(drain[1]) + 5 + 30  # connections, engine
    assert (found["KillSignal"], found["KillMode"]) == ("SIGTERM", "mixed")


def test_it_runs_without_privileges() -> None:
    found = settings()
    for name in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "RestrictNamespaces"):
        assert found[name] == "yes"
    assert found["ProtectSystem"] == "strict"
    assert "0.0.0.0" not in found["ExecStart"]


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    run = analyze("verify", tmp_path)
    complaints = [line for line in run.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
    assert run.returncode == 0


def test_the_exposure_is_small(tmp_path: Path) -> None:
    run = analyze("security", tmp_path, "--offline=true", "--no-pager")
    found = re.search(r"exposure level for \S+: ([\d.]+)", run.stdout)
    assert found is not None, run.stdout + run.stderr
    assert float(found[1]) <= LARGEST_EXPOSURE
