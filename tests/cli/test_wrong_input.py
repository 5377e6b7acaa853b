"""Whatever is wrong with the input: one line that helps, exit code 2, no traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Family, Run
from tests.models.setups.make_checkpoints import make_checkpoint, write_tokenizer

LENGTH = ["--max-new-tokens", "8"]


def missing(folder: Path) -> None:
    assert not folder.exists()


def pickled(folder: Path) -> None:
    make_checkpoint(folder, tokenizer=True)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    weights = make_checkpoint(folder, tokenizer=True) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def unknown_architecture(folder: Path) -> None:
    config = make_checkpoint(folder, tokenizer=True) / "config.json"
    settings = json.loads(config.read_text()) | {"model_type": "mamba9", "architectures": ["M9"]}
    config.write_text(json.dumps(settings))


def without_tokenizer(folder: Path) -> None:
    make_checkpoint(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (missing, "there is no model folder at"),
        (pickled, "pickle"),
        (truncated, "model.safetensors"),
        (unknown_architecture, "mamba9"),
        (without_tokenizer, "tokenizer"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "info"])
def test_faulty_target(
    command: str, damage: Callable[[Path], None], named: str, tmp_path: Path, run: Run
) -> None:
    if command == "info" and damage in (unknown_architecture, without_tokenizer):
        pytest.skip("information is given about these")
    damage(tmp_path / "model")
    place = str(tmp_path / "model")
    words = ["generate", "x", "--mode", "none", "--target"] if command == "generate" else ["info"]
    outcome = run(*words, place)
    assert outcome.code == 2
    assert named in outcome.error
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--temperature", "-1"], "temperature is -1.0. Give a value of at least 0"),
        (["--top-p", "1.5"], "top_p is 1.5. Give a value above 0 and at most 1"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--min-new-tokens", "9", "--max-new-tokens", "8"], "min_new_tokens is 9"),
        (["--mode", "exakt"], "unknown mode 'exakt'. Did you mean 'exact'?"),
        (["--divergence", "jss"], "unknown divergence 'jss'. Did you mean 'js'?"),
        (["--max-changed", "2%"], "max_changed is given, but mode 'exact' changes no token"),
        (["--max-changed", "much"], "max_changed is 'much'"),
        (["--mode", "fuzzy", "--max-changed", "150%"], "max_changed is '150%'"),
        (["--threshold-target", "big"], "threshold is 'big'"),
        (["--mode", "fuzzy", "--threshold-target", "80%"], "calibration"),
        (["--num-speculative-tokens", "0"], "num_speculative_tokens is 0"),
        (["--dtype", "float31"], "Did you mean 'float32'?"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--color", "sometimes"], "unknown color 'sometimes'"),
        (["--stream", "--json"], "--stream cannot be combined with --json"),
        (["--stream", "--n", "2"], "--stream cannot be combined with --n above 1"),
        (["--stop", ""], "a stop string is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_faulty_options(options: list[str], named: str, family: Family, run: Run) -> None:
    outcome = run("generate", "x", *family.two, *options)
    assert outcome.code == 2
    assert named in outcome.error
    assert outcome.out == ""


def test_a_prompt_of_broken_bytes(family: Family, run: Run) -> None:
    assert "the prompt is not text" in run("generate", "\udcff", *family.two).error


def test_tiers_that_share_no_vocabulary(family: Family, tmp_path: Path, run: Run) -> None:
    other = make_checkpoint(tmp_path / "other", tokenizer=True)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    models = ("--target", family.target, "--draft", other)
    outcome = run("generate", "x", *models, "--drafter", "model")
    assert outcome.code == 2
    assert "the draft model does not share the target's vocabulary (token 97" in outcome.error


def test_a_prompt_beyond_the_context_says_by_how_much(family: Family, run: Run) -> None:
    outcome = run("generate", "x" * 300, *family.two, "--raw")
    assert outcome.code == 2
    assert "300" in outcome.error and "256" in outcome.error


def spoil(folder: Path) -> Path:
    """A checkpoint of finite weights whose logits are NaN, since their sums overflow."""
    weights = make_checkpoint(folder, tokenizer=True) / "model.safetensors"
    tensors = load_file(weights)
    for name in ("lm_head.weight", "model.norm.weight"):
        tensors[name] = tensors[name].sign() * 3e38
    save_file(tensors, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("tiers", ["alone", "two"])
def test_a_target_of_nan_names_itself(tiers: str, family: Family, tmp_path: Path, run: Run) -> None:
    spoil(tmp_path / "broken")
    models = ["--target", str(tmp_path / "broken")]
    models += ["--mode", "none"] if tiers == "alone" else ["--draft", str(family.draft)]
    outcome = run("generate", "x", *models, *LENGTH, "--json")
    assert outcome.code == 2
    assert outcome.json["finish_reason"] == "error"
    assert outcome.json["token_ids"] == []
    assert "NaN" in outcome.error and "target" in outcome.error
    assert outcome.error.startswith(outcome.json["error"])
    assert "NaN" in run("generate", "x", *models, *LENGTH).err.splitlines()[-1]


def test_a_draft_of_nan_changes_nothing(family: Family, tmp_path: Path, run: Run) -> None:
    broken = spoil(tmp_path / "draft")
    settings = [*LENGTH, "--temperature", "1", "--seed", "2", "--json"]
    alone = run("generate", "x", *family.alone, *settings).json
    found = run("generate", "x", "--target", family.target, "--draft", broken, *settings)
    assert found.code == 0
    assert found.json["token_ids"] == alone["token_ids"]


def test_a_fallback_is_one_warning(tmp_path: Path, run: Run) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 288}
    config = GPT2Config(**shape, bos_token_id=None, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    outcome = run("generate", "x", "--target", tmp_path, "--mode", "none", *LENGTH)
    assert outcome.code == 0
    warning, summary, prompt = outcome.err.splitlines()
    assert warning.startswith("warning: ") and "gpt2" in warning
    assert "tokens/s" in summary and "--raw" in prompt
    information = run("info", tmp_path, "--json").json["models"][0]
    assert information["runner"] == "transformers"
    assert "gpt2" in information["reason"]


def test_a_text_that_begins_with_a_dash(run: Run) -> None:
    outcome = run("generate", "-5 + 3 =")
    assert outcome.code == 2
    assert outcome.error.startswith("unknown option -5")
    assert outcome.error.endswith("before a text that begins with '-', write --")
    assert run("generate", *LENGTH, "--", "-5 + 3 =").code == 0
