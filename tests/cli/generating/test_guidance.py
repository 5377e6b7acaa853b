"""`--guidance`, `--amateur`, `--contrast`: the text is the library's; mistakes cost one line."""

import json
from typing import Any

import pytest

import outrider
from outrider.strategy.catalogue import names
from tests.cli.conftest import Family, Run

PROMPT, OTHER = "Once upon a time", "The dog"
SHORT = ["--max-new-tokens", "12", "--raw", "--temperature", "0", "--seed", "1"]
OPTIONS = {"max_new_tokens": 12, "temperature": 0.0, "seed": 1}


def test_contrastive_decoding_as_the_help_shows_it(family: Family, run: Run) -> None:
    amateur = ["--amateur", family.draft]
    one = ["generate", PROMPT, *family.alone, *SHORT, "--json", "--guidance"]
    by_option = run(*one, "contrastive", *amateur).json
    generator = outrider.load(
        str(family.target),
        mode="none",
        guidance=f'contrastive(amateur="{family.draft}")',
    )
    own = generator.generate(PROMPT, **OPTIONS)
    assert by_option["text"] == own.text
    assert by_option["guidance"] == own.guidance == str(generator.guidance)
    assert str(family.draft) in own.guidance
    more = run(*one, f"contrastive(alpha=0.9, amateur='{family.draft}')").json
    both = run(*one, "contrastive(alpha=0.9)", *amateur).json
    assert more["token_ids"] == both["token_ids"] and more["guidance"] == both["guidance"]
    assert "alpha=0.9" in both["guidance"]
    plain = run("generate", PROMPT, *family.alone, *SHORT, "--json").json
    assert plain["token_ids"] != by_option["token_ids"] and "guidance" not in plain


def test_another_prompt(family: Family, run: Run) -> None:
    given = ["generate", PROMPT, *family.alone, *SHORT, "--guidance", "3", "--contrast", OTHER]
    generator = outrider.load(str(family.target), mode="none", guidance=3.0)
    own = generator.generate(PROMPT, contrast=OTHER, **OPTIONS)
    found = run(*given, "--json").json
    assert (found["text"], found["guidance"]) == (own.text, 3.0)
    assert own.text != generator.generate(PROMPT, **OPTIONS).text
    shown = run(*given)
    assert shown.out.rstrip("\n") == own.text.rstrip("\n")
    assert "guidance 3.0" in shown.err
    searched = run(*given, "--search", "beam(num_beams=2)", "--json").json
    own = generator.search("beam(num_beams=2)", PROMPT, contrast=OTHER, **OPTIONS)
    assert [one["text"] for one in searched["candidates"]] == [one.text for one in own.candidates]


def test_another_prompt_is_a_message_where_the_model_chats(run: Run) -> None:
    given = ["generate", PROMPT, "--mode", "none", "--dtype", "float32", "--threads", "1"]
    given += ["--guidance", "2", "--temperature", "0", "--max-new-tokens", "8", "--json"]
    found = run(*given, "--contrast", OTHER).json
    generator = outrider.load("tiny", mode="none", dtype="float32", threads=1, guidance=2.0)
    own = generator.generate(
        [{"role": "user", "content": PROMPT}],
        contrast=[{"role": "user", "content": OTHER}],
        temperature=0.0,
        max_new_tokens=8,
    )
    assert found["token_ids"] == list(own.token_ids)
    assert found["token_ids"] != run(*given).json["token_ids"]


def test_a_prompt_that_is_not_guided_is_told(family: Family, run: Run) -> None:
    """A method that compares two prompts, and there is one."""
    one = ["generate", PROMPT, *family.alone, *SHORT, "--guidance", "two-prompt"]
    found = run(*one)
    assert "not guided: two-prompt has no other prompt to compare this one with" in found.err
    assert "--contrast TEXT" in found.err
    assert "not guided" not in run(*one, "--contrast", OTHER).err
    assert "not guided" not in run("generate", PROMPT, *family.alone, *SHORT).err
    refused = run(*one[:-1], "classifier-free(scale=1)", "--contrast", OTHER)
    assert refused.code == 2 and "the model is not guided" in refused.error


def test_a_conversation_is_guided(run: Run) -> None:
    outcome = run(
        *("chat", "--mode", "none", "--dtype", "float32", "--guidance", "2", "--seed", "1"),
        *("--max-new-tokens", "8", "--temperature", "0"),
        stdin="Once upon a time\n/stats\n",
    )
    assert outcome.code == 0
    assert "guidance 2.0" in outcome.err
    generator = outrider.load("tiny", mode="none", dtype="float32", guidance=2.0)
    own = generator.generate(
        [{"role": "user", "content": PROMPT}], max_new_tokens=8, temperature=0.0, seed=1
    )
    assert own.text.strip() in outcome.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--guidance", "contrastve"],
            "unknown guidance 'contrastve'. Did you mean 'contrastive'?",
        ),
        (["--guidance", "contrastive"], "option amateur of 'contrastive' is not given"),
        (["--guidance", "contrastive(amateur='x)"], "a text has no end"),
        (["--guidance", "-2"], "guidance is -2"),
        (["--guidance", "contrastive", "--amateur", "./nowhere"], "there is no model folder at"),
        (["--amateur", "x"], "--amateur is given without --guidance"),
        (["--guidance", "1.5", "--amateur", "x"], "guidance 1.5 has no other model"),
        (
            ["--guidance", "classifier-free", "--amateur", "x"],
            "unknown option of 'classifier-free'",
        ),
        (["--guidance", "contrastive(amateur=x)", "--amateur", "x"], "is given twice"),
        (["--contrast", "x"], "--contrast is given without --guidance"),
        (["--contrast", "x", "--guidance", "1"], "the model is not guided"),
        (["--contrast", "", "--guidance", "2"], "--contrast is empty"),
        (["--contrast", "x", "--guidance", "contrastive(amateur=x)"], "contrastive reads none"),
        (["--contrast", "x", "--guidance", "2", "--documents", "f"], "beside --documents"),
    ],
)
def test_mistakes_are_refused_before_weights_are_read(
    arguments: list[str], problem: str, run: Run, family: Family, monkeypatch: Any
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("outrider.engine.build.load_model", loaded)
    outcome = run("generate", PROMPT, *family.alone, *arguments)
    assert outcome.code == 2
    assert problem in outcome.error


def test_an_amateur_with_another_vocabulary_is_refused(
    run: Run, family: Family, tmp_path: Any
) -> None:
    from tests.models.setups.make_checkpoints import make_checkpoint

    other = make_checkpoint(tmp_path / "other", tokenizer=True)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    outcome = run(
        "generate", PROMPT, *family.alone, "--guidance", "contrastive", "--amateur", other
    )
    assert outcome.code == 2
    assert "amateur model does not share the target's vocabulary" in outcome.error
    assert outcome.error.endswith("Give a model with the tokenizer of the target")


def test_a_bench_guides_all_strategies(run: Run, family: Family, tmp_path: Any) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Once upon a time"}), encoding="utf-8")
    one = ["--prompts", "1", "--repeats", "1", "--max-new-tokens", "8", "--threads", "1"]
    one += ["--workloads", str(prompts), "--strategies", "lookup", "--dtype", "float32"]
    given = ["bench", "speed", str(family.target), *one, "--draft", "none", "--json"]
    guided = run(*given, "--guidance", "contrastive", "--amateur", family.draft)
    assert guided.code == 0, guided.err
    found = guided.json["settings"]["models"]["guidance"]
    assert found.startswith("contrastive(amateur=")
    assert "guidance" not in run(*given).json["settings"]["models"]
    beside = run(*given, "--guidance", "2", "--rivals")
    assert beside.code == 2
    assert "no rival guides its target" in beside.error


def test_the_methods_are_listed_and_completed(run: Run) -> None:
    listed = run("methods", "--kind", "guidance").out
    assert listed.splitlines()[0] == "--guidance"
    for name in names("guidance"):
        assert f"  {name} " in listed
        assert name in run("generate", "--help").out
    described = run("methods", "contrastive").out
    for option in ("amateur (required; ", "alpha=0.1", "temperature=0.5", "context=0"):
        assert option in described
