"""Regular expressions from files end after a time limit."""

import json
import time
from pathlib import Path

import pytest

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints import patterns as module
from outrider.models.checkpoints.limits import VARIABLE
from outrider.models.checkpoints.patterns import check_patterns, matches

NAMES = ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.k_proj"]
AROUND = r"(.*\.)?({})$"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pattern_seconds=1")


def matched(*patterns: str) -> list[list[bool]]:
    return matches(patterns, NAMES, "it.json", around=AROUND)


def test_plain_names_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.subprocess, "run", None)
    assert matched("q_proj", "layers.1.self_attn.q_proj", r"layers\.11\.self_attn.k_proj$") == [
        [True, False],
        [True, False],
        [False, True],
    ]


@pytest.mark.slow
def test_expressions_match_as_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pattern_seconds=20")
    assert matched(r"layers\.\d+\..*_proj", "(q|v)_proj", "layers.[2-9].*") == [
        [True, True],
        [True, False],
        [False, False],
    ]


@pytest.mark.parametrize(
    "pattern", ["(([a-z_.0-9])+.?)+[A-Z]", "(a|[ab]|[a-z0-9._]|.)*[XY]", "(?:(?:.?){30}){30}x"]
)
def test_backtracking_is_ended(pattern: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"it\.json holds .* takes more than 1 s") as caught:
        matched("q_proj", pattern)
    assert time.monotonic() - start < 5
    assert pattern[:10] in str(caught.value)
    assert 'pattern_seconds=..."' in str(caught.value)


@pytest.mark.parametrize("pattern", ["(", "*", "[", "(?P<a>x)(?P<a>y)", "a)(b("])
def test_what_is_no_expression_is_named(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pattern_seconds=20")
    with pytest.raises(CheckpointError, match=r"it\.json holds .* no regular expression"):
        matched(pattern)


KNOWN = {
    "GPT-2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "DeepSeek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
    r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
}


def tokenizer(*patterns: str) -> bytes:
    """A part of a tokenizer.json with these expressions."""
    parts = [{"type": "Split", "pattern": {"Regex": pattern}} for pattern in patterns]
    return json.dumps({"pre_tokenizer": {"pretokenizers": parts}}).encode()


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_expressions_in_use_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pattern_seconds=20")
    check_patterns(tokenizer(KNOWN[name]), "tokenizer.json")


def test_most_expressions_in_use_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.subprocess, "run", None)
    for name in ("GPT-2", "Llama 3", "BLOOM"):
        check_patterns(tokenizer(KNOWN[name]), "tokenizer.json")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["(a+)+$", r"(\w|\w\w?)*[!.,]", "(x+x+)+y", r"(\s|\s+)*[xy]"])
def test_slow_expressions_of_tokenizers_are_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json holds a regular expression"):
        check_patterns(tokenizer(pattern), Path("tokenizer.json"))
