"""`outrider generate --search`."""

import json

import pytest

import outrider
from outrider.cli.app import main
from outrider.core.errors import OptionError
from outrider.search import Limits, Search

TINY = ["--target", "tiny", "--qualifier", "none", "--draft", "none", "--raw", "--seed", "1"]


def test_the_best_texts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "Once upon", *TINY, "--search", "beam(num_beams=2)", "--n", "2"]
    assert main([*command, "--max-new-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    assert out.count("--- ") == 2 and "--- 1 of 2, score -" in out
    assert "beam: score -" in err and "forwards" in err


def test_one_form_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "Once upon", *TINY, "--search", "best-of-n(samples=2)", "--json"]
    assert main([*command, "--max-new-tokens", "8", "--scorer", "keywords:a,the"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategy"] == "best-of-n" and found["scorer_calls"] == 2
    assert {"text", "token_ids", "score", "logprob", "finish_reason", "about"} == set(
        found["candidates"][0]
    )


def test_what_was_found_before_a_limit_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "Once upon", *TINY, "--search", "beam", "--budget", "12"]
    assert main([*command, "--max-new-tokens", "64"]) == 0
    assert "stopped: the limit of 12 computed tokens" in capsys.readouterr().err


def test_a_scorer_without_effect_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for search, told in (("beam(num_beams=2)", True), ("best-of-n(samples=2)", False)):
        command = ["generate", "Once upon", *TINY, "--search", search, "--max-new-tokens", "4"]
        assert main([*command, "--scorer", "keywords:a"]) == 0
        assert ("asked the scorer keywords:a for nothing" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search", "beem"], "Did you mean 'beam'?"),
        (["--search", "beam(beams=2)"], "option of 'beam': 'beams'"),
        (["--search", "beam(momentum)"], "search 'beam' combines no other methods"),
        (["--scorer", "length:5"], "--scorer is given without --search"),
        (["--budget", "5"], "--budget is given without --search"),
        (["--search", "beam", "--stream"], "--stream is given beside --search"),
        (["--search", "beam", "--choice", "a", "--choice", "b"], "a grammar of the text"),
        (["--search", "beam", "--particles", "2"], ""),
        (["--search", "best-of-n", "--scorer", "luck"], "the scorer is 'luck'"),
        (["--search", "best-of-n", "--scorer", "tests:/nowhere"], "cannot be read"),
        (["--search", "beam", "--stop", "a"], "beam does not end texts at stop"),
        (["--allow-code-execution"], "--allow-code-execution is given without --search"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "x", *TINY, *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_search_of_the_user() -> None:
    class Fixed(Search):
        def run(self, task):
            passage = task.passages.write([task.root], [0], most=task.most)[0]
            return [task.candidate(passage.tokens, passage.logprob)]

    generator = outrider.load("tiny", qualifier="none", draft="none")
    found = generator.search(Fixed(), "Once upon", max_new_tokens=6, seed=1)
    assert found.best.token_ids == generator.generate("Once upon", max_new_tokens=6).token_ids
    assert found.strategy == "Fixed"
    limited = generator.search(
        "beam", "Once upon", num_beams=2, budget=Limits(tokens=8), max_new_tokens=30
    )
    assert "limit of 8" in limited.stopped and limited.candidates
    with pytest.raises(OptionError, match="strategy of a search is 3"):
        generator.search(3, "Once")  # type: ignore[arg-type]
    for given, message in (({"budget": "9"}, "budget is '9'"), ({"scorer": 3}, "scorer is 3")):
        with pytest.raises(OptionError, match=message):
            generator.search("beam", "Once", **given)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="does not follow a constraint"):
        generator.search("beam", "Once", constraint=outrider.Constraint.choice(["a"]))
