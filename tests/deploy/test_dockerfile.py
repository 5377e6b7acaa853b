"""The Dockerfile: what it promises without being built; `scripts/try_dockerfile.py` runs it."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

from scripts.try_dockerfile import DOCKERFILE, ROOT, Image, instructions

STEPS = list(instructions(DOCKERFILE.read_text(encoding="utf-8")))
LAST = STEPS[max(at for at, (word, _) in enumerate(STEPS) if word == "FROM") :]
VALUES = dict(LAST)


def test_the_server_is_not_root_and_the_image_holds_no_secret() -> None:
    assert VALUES["USER"] == "outrider"
    assert not re.search("key|secret|token|password", VALUES["ENV"], re.I)


def test_the_server_is_asked_to_stop_as_it_expects() -> None:
    assert VALUES["STOPSIGNAL"] == "SIGTERM"
    entry = json.loads(VALUES["ENTRYPOINT"])  # no shell, which would keep the signal
    assert entry[:2] == ["outrider", "serve"]
    assert "--insecure" not in entry + json.loads(VALUES["CMD"])


def test_the_health_check_asks_the_port_that_is_exposed() -> None:
    check = json.loads(VALUES["HEALTHCHECK"].partition("CMD ")[2])
    assert f":{VALUES['EXPOSE']}/health" in check[-1]
    assert VALUES["EXPOSE"] == "8000"  # the default of --port


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for word, rest in STEPS:
        if word == "COPY" and not rest.startswith("--from"):
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists()
                assert any(fnmatch(name, pattern) for pattern in kept), name


def test_the_trial_moves_the_folders_of_the_image_only() -> None:
    image = Image(Path("/new"), {}, Path("/new"))
    assert image.moved("/opt/outrider/bin:/usr/bin /src src/a") == (
        "/new/opt/outrider/bin:/usr/bin /new/src src/a"
    )
