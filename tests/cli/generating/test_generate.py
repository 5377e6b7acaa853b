"""`outrider generate` prints what the library wrote, as text and as JSON."""

import io
import json
import signal
import sys
from typing import Any

import pytest

from outrider.cli.ui.render import CAVEAT, STYLES, Screen
from tests.cli.conftest import Family, Run

PROMPT = "Once upon a time"
LENGTH = ["--max-new-tokens", "24", "--raw"]

SPECULATION = {
    "mode": str,
    "exactness": str,
    "rounds": int,
    "target_forwards": int,
    "drafted": int,
    "accepted": int,
    "acceptance_rate": float,
    "accepted_at": list,
    "mean_accepted_length": float,
    "block_efficiency": float,
    "changed_tokens": int,
    "sources": dict,
    "undrafted_rounds": int,
    "mean_draft_length": float,
    "origins": dict,
    "predicted_tokens_per_second": (float, type(None)),
    "stages": dict,
    "guard": (dict, type(None)),
}
RESULT = {
    "text": str,
    "token_ids": list,
    "finish_reason": str,
    "prompt_tokens": int,
    "completion_tokens": int,
    "seconds": dict,
    "tokens_per_second": float,
    "speculation": dict,
    "seed": int,
    "token_sources": list,
    "token_changed": list,
    "prompt_format": str,
}


def assert_shape(found: dict[str, Any], shape: dict[str, Any], *extra: str) -> None:
    assert set(found) == {*shape, *extra}
    for name, kind in shape.items():
        assert isinstance(found[name], kind), name


def test_json_has_exactly_these_fields(family: Family, run: Run) -> None:
    outcome = run("generate", PROMPT, *family.three, *LENGTH, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = outcome.json
    assert_shape(found, RESULT)
    assert_shape(found["speculation"], SPECULATION)
    assert set(found["seconds"]) == {"prefill", "draft", "verify", "accept", "total"}
    assert set(found["speculation"]["sources"]) >= {"draft", "qualifier", "target"}
    assert sum(found["speculation"]["sources"].values()) == found["completion_tokens"] == 24
    assert found["prompt_tokens"] == len(PROMPT)
    assert found["finish_reason"] == "length"


def test_json_is_the_result(family: Family, run: Run) -> None:
    from outrider.engine.load import load

    generator = load(str(family.target), draft=str(family.draft), num_speculative_tokens=3)
    expected = generator.generate(PROMPT, max_new_tokens=24, temperature=0.9, seed=5).to_dict()
    warmth = ["--temperature", "0.9", "--seed", "5", "--num-speculative-tokens", "3"]
    found = run("generate", PROMPT, *family.two, *LENGTH, *warmth, "--json").json
    for timed in ("seconds", "tokens_per_second"):
        del expected[timed], found[timed]
    expected["prompt_format"] = "raw"
    del expected["speculation"]["predicted_tokens_per_second"]
    del found["speculation"]["predicted_tokens_per_second"]
    assert found == expected


def test_drafting_changes_no_token(family: Family, run: Run) -> None:
    warmth = [*LENGTH, "--temperature", "1", "--seed", "3", "--dtype", "float64", "--json"]
    alone = run("generate", PROMPT, *family.alone, *warmth).json
    for tiers in (family.two, family.three):
        found = run("generate", PROMPT, *tiers, "--num-speculative-tokens", "3", *warmth).json
        assert found["token_ids"] == alone["token_ids"]
        assert found["text"] == alone["text"]
        assert found["speculation"]["accepted"] > 0
    assert alone["speculation"]["drafted"] == 0
    assert alone["speculation"]["mode"] == "none"


def test_several_samples(family: Family, run: Run) -> None:
    options = [*family.two, *LENGTH, "--temperature", "1", "--seed", "3"]
    one = run("generate", PROMPT, *options, "--json").json
    three = run("generate", PROMPT, *options, "--n", "3", "--json").json
    assert_shape(three, RESULT, "choices")
    assert_shape(three["speculation"], SPECULATION)
    assert [set(c) for c in three["choices"]] == [{"text", "token_ids", "finish_reason"}] * 3
    assert three["token_ids"] == three["choices"][0]["token_ids"] == one["token_ids"]
    assert three["text"] == three["choices"][0]["text"]
    assert len({c["text"] for c in three["choices"]}) == 3
    lengths = [len(c["token_ids"]) for c in three["choices"]]
    assert three["completion_tokens"] == sum(lengths) == 72
    assert sum(three["speculation"]["sources"].values()) == 72
    assert three["prompt_tokens"] == len(PROMPT)
    wall = three["seconds"]["total"] - three["seconds"]["prefill"]
    assert three["tokens_per_second"] == pytest.approx(72 / wall)


def test_several_samples_as_text(family: Family, run: Run) -> None:
    options = [*family.two, *LENGTH, "--temperature", "1", "--seed", "3", "--n", "2"]
    outcome = run("generate", PROMPT, *options)
    choices = run("generate", PROMPT, *options, "--json").json["choices"]
    first, second = (choice["text"] for choice in choices)
    assert outcome.out == f"--- 1 of 2 ---\n{first}\n--- 2 of 2 ---\n{second}\n"


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_text_goes_to_stdout_and_figures_to_stderr(stream: str, family: Family, run: Run) -> None:
    text = run("generate", PROMPT, *family.three, *LENGTH, "--json").json["text"]
    outcome = run("generate", PROMPT, *family.three, *LENGTH, stream)
    assert outcome.code == 0
    assert outcome.out == text + "\n"
    assert outcome.err.startswith("24 tokens, ")
    assert "tokens/s" in outcome.err and "exact (identical)" in outcome.err
    [_, prompt, weights] = outcome.err.splitlines()
    assert prompt.startswith("prompt: plain text to continue")
    assert weights.startswith("weights ") and "to float32" in weights


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_color_marks_the_tier_that_wrote(stream: str, family: Family, run: Run) -> None:
    # The target drafts for itself: all text but the bonus tokens is the draft's.
    tiers = ["--target", family.target, "--draft", family.target, "--guard", "off"]
    plain = run("generate", PROMPT, *tiers, *LENGTH)
    colored = run("generate", PROMPT, *tiers, *LENGTH, stream, "--color", "always")
    assert "\x1b[32m" in colored.out  # green: the draft's
    assert "\x1b[1;35m" in colored.out  # bold magenta: the target's
    assert "\x1b" not in plain.out
    stripped = colored.out
    for code in ("\x1b[32m", "\x1b[1;35m", "\x1b[33m", "\x1b[0m"):
        stripped = stripped.replace(code, "")
    assert stripped == plain.out
    legend = colored.err.splitlines()[0]
    assert all(tier in legend for tier in ("draft", "target"))


def test_the_prompt_may_come_from_stdin(family: Family, run: Run) -> None:
    given = run("generate", PROMPT, *family.two, *LENGTH, "--json").json
    read = run("generate", "-", *family.two, *LENGTH, "--json", stdin=PROMPT + "\n").json
    assert read["token_ids"] == given["token_ids"]


def test_an_empty_prompt_is_refused(family: Family, run: Run) -> None:
    assert "the prompt is empty" in run("generate", "-", *family.two).error


def test_stop_strings_end_the_text(family: Family, run: Run) -> None:
    options = [*family.two, *LENGTH, "--temperature", "1", "--seed", "3", "--json"]
    text = run("generate", PROMPT, *options).json["text"]
    ascii_at = next(i for i, c in enumerate(text) if i > 2 and c.isascii() and c.isprintable())
    stop = text[ascii_at]
    found = run("generate", PROMPT, *options, "--stop", "never", "--stop", stop).json
    assert found["finish_reason"] == "stop"
    assert found["text"] == text[: text.index(stop)]


def test_logprobs_are_listed(family: Family, run: Run) -> None:
    found = run("generate", PROMPT, *family.two, *LENGTH, "--logprobs", "2", "--json").json
    assert [entry["token"] for entry in found["logprobs"]] == found["token_ids"]
    assert all(len(entry["top"]) == 2 for entry in found["logprobs"])


def test_a_lossy_mode_counts_its_changes_and_says_what_they_mean(family: Family, run: Run) -> None:
    options = [*family.two, *LENGTH, "--mode", "fuzzy", "--threshold-target", "0.69315"]
    found = run("generate", PROMPT, *options, "--json").json
    assert found["speculation"]["exactness"] == "lossy"
    assert found["speculation"]["changed_tokens"] > 0
    summary = run("generate", PROMPT, *options).err
    assert f"{found['speculation']['changed_tokens']} changed tokens" in summary
    assert CAVEAT in summary


@pytest.mark.parametrize("share", ["0.1", "10%"])
def test_the_budget_of_changes_holds(share: str, family: Family, run: Run) -> None:
    options = [*family.two, *LENGTH, "--mode", "fuzzy", "--threshold-target", "0.69315"]
    found = run("generate", PROMPT, *options, "--max-changed", share, "--json").json
    assert found["speculation"]["changed_tokens"] in (1, 2)


def test_qualifiers_may_be_several(family: Family, run: Run) -> None:
    tiers = [*family.three, "--qualifier", str(family.draft)]
    found = run("generate", PROMPT, *tiers, *LENGTH, "--num-speculative-tokens", "2", "--json").json
    assert set(found["speculation"]["sources"]) == {"draft", "qualifier", "qualifier2", "target"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_written(
    family: Family, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("generate", PROMPT, *family.two, "--max-new-tokens", "200").out
    write, before = Screen.write, signal.getsignal(signal.SIGINT)

    def interrupted(self: Screen, text: str, source: str = "") -> None:
        monkeypatch.setattr(Screen, "write", write)
        signal.raise_signal(signal.SIGINT)
        self.write(text, source)

    monkeypatch.setattr(Screen, "write", interrupted)
    outcome = run("generate", PROMPT, *family.two, "--max-new-tokens", "200", "--stream")
    assert outcome.code == 130
    assert 1 < len(outcome.out) < len(whole)
    assert whole.startswith(outcome.out.removesuffix("\n"))
    assert signal.getsignal(signal.SIGINT) is before


def test_styles_tell_the_tiers_apart() -> None:
    assert len(set(STYLES.values())) == 3


def test_a_terminal_without_unicode_gets_text_all_the_same(
    family: Family, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("--no-stream", "--json"):
        narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", narrow)
        assert run("generate", PROMPT, *family.two, *LENGTH, form).code == 0
        written = narrow.buffer.getvalue().decode("ascii")
        if form == "--json":
            assert len(json.loads(written)["token_ids"]) == 24
