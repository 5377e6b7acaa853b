"""A masked denoiser is used as any other model: `load`, `generate`, streams, limits, errors."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import outrider
from outrider.cli.app import app
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.diffusion import Denoising
from outrider.diffusion.rules.threshold import Threshold
from outrider.diffusion.session import drawing_of
from outrider.engine.generator import Generator
from outrider.models.denoisers.next_token import NextToken
from outrider.sampling import SamplingParams

PROMPT = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def test_the_text_is_that_of_the_loop(writer: Generator) -> None:
    result = writer.generate(PROMPT, max_new_tokens=20, temperature=0.8, seed=5)
    target = writer.strategy.target
    assert isinstance(target, NextToken)
    rule = writer.strategy.denoising
    assert rule is not None
    prompt = writer.prompt(PROMPT).token_ids
    drawing = drawing_of(SamplingParams(temperature=0.8), seed=5)
    answer = Denoising(target.denoiser, prompt, rule, max_new_tokens=20, drawing=drawing)
    tokens, trace = answer.run()
    assert list(result.token_ids) == tokens
    counters = result.speculation.target
    assert (counters.rounds, counters.forwards) == (len(trace), trace.forwards)
    assert counters.denoised_rows == trace.rows
    assert counters.tokens == len(tokens) == counters.sources["target"]
    assert counters.rounds < len(tokens)  # some rounds commit several
    assert result.speculation.exactness is Exactness.LOSSY
    assert result.speculation.mode == "denoising"


def test_requests_do_not_depend_on_each_other(writer: Generator) -> None:
    prompts = [PROMPT, "The cat", "A"]
    together = writer.generate(prompts, max_new_tokens=12, temperature=1.0, seed=3)
    alone = [writer.generate(p, max_new_tokens=12, temperature=1.0, seed=3) for p in prompts]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_samples_differ_and_the_first_is_that_of_a_single_request(writer: Generator) -> None:
    several = writer.generate(PROMPT, max_new_tokens=12, temperature=1.0, seed=3, n=3)
    assert len({r.token_ids for r in several}) == 3
    alone = writer.generate(PROMPT, max_new_tokens=12, temperature=1.0, seed=3)
    assert several[0].token_ids == alone.token_ids


def test_a_stream_gives_the_committed_prefix_as_it_grows(writer: Generator) -> None:
    whole = writer.generate(PROMPT, max_new_tokens=24)
    stream = writer.stream(PROMPT, max_new_tokens=24)
    pieces = list(stream)
    assert "".join(pieces) == whole.text == stream.result.text
    assert len(pieces) > 2


def test_a_cancelled_stream_keeps_what_is_written(writer: Generator) -> None:
    whole = writer.generate(PROMPT, max_new_tokens=40).text
    stream = writer.stream(PROMPT, max_new_tokens=40)
    first = next(iter(stream))
    stream.cancel()
    assert stream.result.finish_reason == "cancelled"
    assert whole.startswith(stream.result.text) and stream.result.text.startswith(first)


def test_a_stop_string_ends_the_text(writer: Generator) -> None:
    whole = writer.generate(PROMPT, max_new_tokens=24).text
    stop = whole[6:9]
    result = writer.generate(PROMPT, max_new_tokens=24, stop=[stop])
    assert result.finish_reason == "stop"
    assert result.text == whole[: whole.index(stop)]


def test_an_end_token_ends_the_text(writer: Generator) -> None:
    ids = writer.generate(PROMPT, max_new_tokens=24).token_ids
    result = writer.generate(PROMPT, max_new_tokens=24, stop_token_ids=[ids[4]])
    assert result.finish_reason == "stop"
    assert result.token_ids[-1] == ids[4] and ids[4] not in result.token_ids[:-1]


def test_one_token_and_a_full_window(writer: Generator) -> None:
    assert len(writer.generate(PROMPT, max_new_tokens=1).token_ids) == 1
    room = writer.strategy.target.info.context_length
    prompt = outrider.Prompt(token_ids=(5,) * (room - 2))
    assert len(writer.generate(prompt, max_new_tokens=8).token_ids) <= 3
    with pytest.raises(outrider.OutriderError, match="tokens"):
        writer.generate(outrider.Prompt(token_ids=(5,) * (room + 5)))


def test_fixed_tokens_stay_at_their_places(writer: Generator) -> None:
    result = writer.generate(PROMPT, max_new_tokens=12, forced_tokens={3: 77, 7: 88})
    assert (result.token_ids[3], result.token_ids[7]) == (77, 88)


def test_log_probabilities_are_those_at_the_commit(writer: Generator) -> None:
    result = writer.generate(PROMPT, max_new_tokens=12, logprobs=0)
    assert [one.token for one in result.logprobs] == list(result.token_ids)
    assert all(one.logprob <= 0.0 for one in result.logprobs)
    assert any(one.logprob < -0.01 for one in result.logprobs)


def test_a_constraint_holds_and_the_text_is_complete(writer: Generator) -> None:
    result = writer.generate(PROMPT, max_new_tokens=30, choice=["yes", "no"])
    assert result.text in ("yes", "no") and result.finish_reason == "stop"
    result = writer.generate(PROMPT, max_new_tokens=40, json_schema=SCHEMA)
    if result.finish_reason == "stop":
        assert set(json.loads(result.text)) == {"ok"}


def test_left_to_right_is_the_undrafted_baseline(denoiser_folder: Path) -> None:
    plain = outrider.load(denoiser_folder, threads=1, mode="none")
    result = plain.generate(PROMPT, max_new_tokens=6)
    assert plain.strategy.denoising is None
    assert result.speculation.target.forwards == len(result.token_ids)
    named = outrider.load(denoiser_folder, threads=1, denoising="none", drafter="lookup")
    assert named.generate(PROMPT, max_new_tokens=6).token_ids == result.token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafter": "lookup"}, "drafter is lookup"),
        ({"draft": "tiny"}, "draft is tiny"),
        ({"kv_policy": "snapkv"}, "kv_policy is snapkv"),
        ({"adapter": "/nowhere"}, "adapter is /nowhere"),
        ({"guidance": 1.5}, "guidance is"),
        ({"mode": "fuzzy"}, "mode is fuzzy"),
        ({"denoising": "treshold"}, "Did you mean 'threshold'"),
        ({"denoising": "threshold(block=0)"}, "block"),
        ({"denoising": 3}, "denoising is|diffusion is 3"),
    ],
)
def test_options_that_do_not_fit(
    denoiser_folder: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        outrider.load(denoiser_folder, threads=1, **options)


def test_denoising_needs_a_denoiser() -> None:
    with pytest.raises(OptionError, match="tiny is no masked denoiser"):
        outrider.load("tiny", denoising="threshold")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"logprobs": 3}, "logprobs is 3"),
        ({"min_new_tokens": 3}, "min_new_tokens"),
    ],
)
def test_settings_that_need_an_order(
    writer: Generator, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        writer.generate(PROMPT, max_new_tokens=8, **options)


def test_a_rule_can_be_given_as_an_object(denoiser_folder: Path) -> None:
    rule = Threshold(threshold=0.5, block=4)
    found = outrider.load(denoiser_folder, threads=1, denoising=rule)
    assert found.strategy.denoising is rule
    assert "threshold(" in found.strategy.describe() and "threshold(" in repr(found.strategy)


def test_the_command_line_recognises_a_denoiser(denoiser_folder: Path) -> None:
    found = CliRunner().invoke(app, ["info", str(denoiser_folder)])
    assert found.exit_code == 0 and "masked denoiser" in found.stdout
    asked = ["generate", "Once", "--target", str(denoiser_folder), "--max-new-tokens", "8"]
    found = CliRunner().invoke(app, [*asked, "--denoising", "explore(block=4)", "--json"])
    figures = json.loads(found.stdout)
    assert figures["speculation"]["mode"] == "denoising"
    assert figures["speculation"]["denoised_rows"] > 8
    found = CliRunner().invoke(app, [*asked, "--no-stream"])
    assert "forwards over" in found.stderr and "changed" not in found.stderr
