"""The commands that measure, train and describe."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.golden.calls import (
    STORY,
    WORK,
    Case,
    call,
)


def tools() -> Iterator[tuple[str, Case]]:
    """The other commands."""
    micro = ["--prompts", "1", "--repeats", "1", "--max-new-tokens", "12", "--least-tokens", "1"]
    micro += ["--threads", "1"]
    kinds = "none,draft:k=4,lookup:k=4,pyramid:k=4,fuzzy:k=4,recycling:n=8"
    yield "info tiny", lambda: call("info", "tiny", exact=True)
    yield "info tiny json", lambda: call("info", "tiny", "--json")
    yield "info vision json", lambda: call("info", "tiny-vision", "--json")
    yield "drafters", lambda: call("drafters", exact=True)
    yield "drafters json", lambda: call("drafters", "--json")
    yield "demo", lambda: call("demo", "--tokens", "12", "--threads", "1")["code"]
    yield "bench speed", lambda: call("bench", "speed", "--strategies", kinds, *micro)
    yield (
        "bench speed json",
        lambda: call("bench", "speed", "--strategies", kinds, *micro, "--json"),
    )
    yield (
        "bench run",
        lambda: call("bench", "--strategies", "lookup:k=4", "--workloads", "qa", *micro),
    )
    yield (
        "bench scaled",
        lambda: call(
            "bench", "speed", "--cost-scale", "x2", "--strategies", "draft:k=3", *micro, "--json"
        ),
    )
    yield "bench verify", lambda: call("bench", "verify-cost", "tiny", "--threads", "1", "--json")
    yield "calibrate", calibrated
    yield "datastore", stores
    yield "train family", trained
    yield "train vizer", vizer


def calibrated() -> Any:
    """A small calibration, and its file."""
    file = WORK / "calibration.json"
    file.unlink(missing_ok=True)
    found = call("calibrate", "--limit", "3", "--tokens", "8", "--out", file)
    return found | {"file": json.loads(file.read_text())}


def stores() -> Any:
    """Datastores of both kinds, and texts drafted from them."""
    found: dict[str, Any] = {}
    for kind in ("rest", "sam"):
        place = WORK / f"store-{kind}"
        shutil.rmtree(place, ignore_errors=True)
        build = ["datastore", "build", WORK / "docs", "--out", place, "--tokenizer", "tiny"]
        found[f"build {kind}"] = call(*build, "--kind", kind)
        found[f"info {kind}"] = call("datastore", "info", place, "--json")
        size = ["--num-draft-nodes", "8"] if kind == "rest" else ["--num-speculative-tokens", "8"]
        options = ["--drafter", kind, "--datastore", place, *size, "--json"]
        found[kind] = call("generate", "Ann went to", "--max-new-tokens", "40", *options)
    return found


def trained() -> Any:
    """A family trained for a few steps: hashes of its weights."""
    folder = WORK / "family"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "micro.toml").write_text(
        MICRO.read_text(encoding="utf-8").replace("heldout.jsonl", "stories.jsonl")
    )
    records = [{"text": f"{STORY[: 200 + 7 * i]}"} for i in range(60)]
    (folder / "stories.jsonl").write_text("\n".join(map(json.dumps, records)))
    chats = [{"prompt": f"Where is {who}?", "response": "At home."} for who in ("Ann", "Ben")] * 9
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    words = ["--out", folder / "out", "--data", folder]
    found = call("train", "family", folder / "micro.toml", *words)
    weights = sorted((folder / "out").rglob("model.safetensors"))
    names = sorted(str(f.relative_to(folder)) for f in (folder / "out").rglob("*") if f.is_file())
    return {"code": found["code"], "weights": [digest(file) for file in weights], "files": names}


def vizer() -> Any:
    """ViZer for a few steps: hashes of what it learned."""
    folder = WORK / "vizer"
    shutil.rmtree(folder, ignore_errors=True)
    found = {}
    for through in ("states", "words"):
        out = folder / through
        options = ["--mapper-images", "8", "--mapper-epochs", "2", "--epochs", "1", "--batch", "4"]
        options += ["--held-out", "4", "--evaluate-every", "1", "--longest", "12", "--threads", "1"]
        options += ["--samples", "2", "--through", through, "--device", "cpu"]
        code = call("train", "vizer", "tiny-vision", WORK / "album", "--out", out, *options)["code"]
        files = sorted(out.rglob("*.safetensors"))
        found[through] = {"code": code, "weights": {f.name: digest(f) for f in files}}
    return found


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


MICRO = Path(__file__).parents[2] / "tests/training/micro.toml"
"""A family that is trained in a few seconds."""
