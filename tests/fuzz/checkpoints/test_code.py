"""No code of a folder runs unless the user asks for it, even if `y` is on standard input."""

import ast
import builtins
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import outrider
from outrider.captioning.metrics.clip import ClipScorer
from outrider.cli.app import main
from outrider.core.errors import OutriderError
from tests.captioning.tiny_clip import save, scorer
from tests.fuzz.case import Case
from tests.fuzz.sandbox import Sandbox
from tests.models.setups.built import RUNS, build
from tests.models.setups.make_checkpoints import make_checkpoint, write_tokenizer
from tests.models.setups.vision_checkpoints import make_vision_checkpoint

SOURCE = Path(outrider.__file__).parent
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
CLASSES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoImageProcessor",
    "AutoVideoProcessor",
    "AutoFeatureExtractor",
    "AutoProcessor",
)
NEVER = {"model_type": "nobody_knows_it"}


def keywords_of(name: str) -> list[tuple[str, dict[str | None, ast.expr]]]:
    """The keywords of every call of a method `name` in the source, and where it is."""
    return [
        (f"{file.relative_to(SOURCE)}:{call.lineno}", {k.arg: k.value for k in call.keywords})
        for file in SOURCE.rglob("*.py")
        if name in (text := file.read_text(encoding="utf-8"))
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == name
    ]


def test_every_from_pretrained_says_whether_code_may_run() -> None:
    """It passes False, or the value of a variable: what the user asked for."""
    calls = keywords_of("from_pretrained")
    assert len(calls) > 10
    for place, keywords in calls:
        given = keywords.get("trust_remote_code")
        assert given is not None, place
        constant = isinstance(given, ast.Constant)
        assert not constant or given.value is False, place


def plant(folder: Path, marker: Path, **changes: Any) -> None:
    """Put code into a folder, and name it in every file that may name code."""
    code = f"open({str(marker)!r}, 'w').close()\n"
    names = [*CLASSES, "Tokenizer"]
    code += "".join(f"class {name}:\n    pass\n" for name in names)
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    known = {name: f"evil.{name}" for name in CLASSES}
    known |= {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    for name in FILES:
        file = folder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        content["auto_map"] = known
        if name == "generation_config.json":
            content["custom_generate"] = str(folder)
        if name == "config.json":
            content |= changes
        file.write_text(json.dumps(content))


def text(folder: Path) -> Path:
    return make_checkpoint(folder, tokenizer=True)


def gpt(folder: Path) -> Path:
    """A model that runs through `transformers`."""
    build("GPT2", RUNS["gpt2"][1]).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def adapted(folder: Path) -> Path:
    """The same with an adapter beside it, which names code too."""
    settings = {"auto_mapping": {"base_model_class": "AutoModel", "parent_library": "evil"}}
    settings |= {"peft_type": "LORA", "base_model_name_or_path": str(folder), "auto_map": {}}
    gpt(folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def sight(folder: Path) -> Path:
    return make_vision_checkpoint(folder, "idefics3")


MODELS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "text": (text, {}),
    "unknown text": (text, NEVER),
    "images": (sight, {}),
    "other": (gpt, {}),
    "adapter": (adapted, {}),
    "unknown images": (sight, NEVER),
    "kernels": (text, {"model_type": "gpt2", "attn_implementation": "someone/kernel"}),
}
_FAST = ("unknown text",)
COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "{folder}/model"),
    "generate": ("generate", "hi", "--raw", "--max-new-tokens", "2", "--target", "{folder}/model"),
    "caption": ("caption", "{folder}/a.png", "--target", "{folder}/model", "--max-new-tokens", "2"),
    "score": ("caption", "{folder}/a.png", "--score", "{folder}/model", "--max-new-tokens", "2"),
}


def prepare(folder: Path, name: str) -> Path:
    """Make the model of a case in `folder/model`, with a picture; return the marker's path."""
    make, changes = MODELS[name]
    make(folder / "model")
    marker = folder / "marker"
    plant(folder / "model", marker, **changes)
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    return marker


@pytest.mark.parametrize(
    "name",
    [n if n in _FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS],
)
def test_no_code_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker = prepare(tmp_path, name)
    asked: list[object] = []
    monkeypatch.setattr(builtins, "input", lambda *text: asked.append(text) or "y")
    for command in COMMANDS:
        words = [word.replace("{folder}", str(tmp_path)) for word in COMMANDS[command]]
        code = main(words)
        assert code in (0, 2), capsys.readouterr().err
        assert not marker.exists(), command
    if name.startswith("unknown"):
        error = capsys.readouterr().err.splitlines()[-1]
        assert "needs Python code that comes with it, which is not run" in error
    assert asked == []


def test_kernels_from_the_hub_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, "kernels")
    assert main(["info", str(tmp_path / "model")]) == 2
    assert "attn_implementation 'someone/kernel', which is code" in capsys.readouterr().err


def test_a_scorer_with_code_is_used_without_it(tmp_path: Path) -> None:
    folder = save(scorer(), tmp_path / "clip")
    plant(folder, tmp_path / "marker")
    with suppress(OutriderError):
        ClipScorer.load(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", MODELS)
def test_yes_on_standard_input_runs_no_code(
    name: str, command: str, tmp_path: Path, sandbox: Sandbox
) -> None:
    marker = prepare(tmp_path, name)
    words = tuple(word.replace("{folder}", str(tmp_path)) for word in COMMANDS[command])
    case = Case(name=name, make=lambda _: None, arguments=words, stdin=b"y\ny\ny\n", codes=(0, 2))
    outcome = sandbox.run(case)
    assert outcome.fault(case) == ""
    assert "[y/N]" not in outcome.output
    assert not marker.exists()
