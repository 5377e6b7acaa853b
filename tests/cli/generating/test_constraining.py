"""Grammars of the text on the command line."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Family, Run

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"enum": [1, 2]}},
    "required": ["color", "count"],
    "additionalProperties": False,
}
LENGTH = ["--max-new-tokens", "60", "--raw"]
OVERLAP = '{"oneOf": [{"type": "boolean"}, {"enum": [true]}]}'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a schema, two grammars, and files that are wrong."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (tmp_path / "list.lark").write_text('start: "ab" ("," "ab")~2\n', encoding="utf-8")
    (tmp_path / "list.gbnf").write_text('root ::= "ab" ",ab"\n', encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "large.lark").write_bytes(b"a" * 300_000)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--json-schema", "schema.json", "--json-whitespace", " ?"], None),
        (["--json-schema", json.dumps(SCHEMA), "--json-whitespace", "compact"], r"\{\S*\}"),
        (["--regex", "[a-c]{3}-[0-9]"], "[a-c]{3}-[0-9]"),
        (["--choice", "yes", "--choice", "no"], "yes|no"),
        (["--grammar", "list.lark"], "ab,ab,ab"),
        (["--grammar", "list.gbnf"], "ab,ab"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_text_follows_its_grammar(
    options: list[str],
    pattern: str | None,
    files: Path,
    family: Family,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    drafted = run("generate", "x", *family.two, *LENGTH, *options, "--json").json
    assert drafted["finish_reason"] == "stop"
    assert "validated" not in drafted
    if pattern is None:
        assert set(json.loads(drafted["text"])) == {"color", "count"}
    else:
        assert re.fullmatch(pattern, drafted["text"])


def test_what_a_limit_cuts_is_said(family: Family, run: Run) -> None:
    words = ["generate", "x", *family.alone, "--raw", "--regex", "(ab){4}", "--max-new-tokens"]
    note = "cut at 5 tokens: the text is an unfinished prefix of the grammar; raise --max-new-tok"
    cut = run(*words, "5")
    assert cut.code == 0 and cut.out == "ababa\n"
    assert [line for line in cut.err.splitlines() if line.startswith(note)]
    assert "cut at" not in run(*words, "8").err  # complete, though without an end token
    assert "cut at" not in run(*words, "9").err
    window = run(*words, "60", "--context-length", "5")
    assert "cut at 4 tokens" in window.err and "the context window is full" in window.err


def test_chat_takes_a_grammar(family: Family, run: Run) -> None:
    words = ["chat", *family.alone, "--choice", "yes", "--max-new-tokens"]
    assert "yes\n" in run(*words, "9", stdin="Hello\n").out
    assert "cut at 2 tokens: the text is an unfinished" in run(*words, "2", stdin="Hello\n").err


def test_a_schema_that_is_enforced_in_part_is_checked(family: Family, run: Run) -> None:
    words = ["generate", "x", *family.alone, *LENGTH, "--json-schema", OVERLAP]
    refused = run(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "unsupported='coerce'" in refused.error
    words += ["--unsupported", "coerce"]
    found = run(*words, "--json").json
    assert found["text"] in ("true", "false")
    assert found["validated"] is (found["text"] == "false")
    never = [*words[:-3], '{"enum": [true], "not": {"type": "boolean"}}', "--unsupported"]
    assert "the text does not follow the schema" in run(*never, "lenient").err


def test_stop_strings_beside_a_grammar_are_one_warning(family: Family, run: Run) -> None:
    words = ["generate", "x", *family.alone, *LENGTH, "--regex", "(ab){4}", "--stop", "ba"]
    outcome = run(*words)
    assert outcome.out == "a\n"
    warned = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1 and "stop is given beside a constraint: where 'ba'" in warned[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--regex", "a", "--json-object"], "--json-object and --regex are given together"),
        (["--json-schema", "missing.json"], "missing.json cannot be read: No such file"),
        (["--json-schema", "broken.json"], "the JSON schema is no JSON: "),
        (["--json-schema", "bytes.json"], "bytes.json is no text. Give a file in UTF-8"),
        (["--json-schema", '{"type": 3}'], "the json constraint is refused: type must be"),
        (["--json-schema", "."], ". is a folder, not a regular file"),
        (["--grammar", "large.lark"], "large.lark is too large. At most 262144 bytes are read"),
        (["--grammar", "schema.json"], "the lark constraint is refused: "),
        (["--regex", "[a"], "the regex constraint is refused: unclosed character class"),
        (["--choice", ""], "choice is ['']. Give texts"),
        (["--unsupported", "coerce"], "--unsupported is given without a schema"),
        (["--constraint-engine", "xgrammar"], "--constraint-engine is given without a grammar"),
        (["--regex", "a", "--constraint-engine", "xgramma"], "Did you mean 'xgrammar'?"),
        (["--regex", "a", "--json-whitespace", "compact"], "--json-whitespace is given without"),
        (["--json-object", "--unsupported", "lenint"], "Did you mean 'lenient'?"),
        (["--json-object", "--json-whitespace", "["], "unclosed character class"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_before_the_model_is_read(
    options: list[str], named: str, files: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    outcome = run("generate", "x", "--target", "./no-such-model", *options)
    assert outcome.code == 2
    assert named in outcome.error
    assert outcome.out == ""


def test_particles_sample_whole_texts(family: Family, run: Run) -> None:
    options = ["--choice", "yes", "--choice", "no", "--particles", "4", "--seed", "1"]
    found = run("generate", "x", *family.two, *LENGTH, *options, "--json").json
    assert found["exactness"] == "conditional (4 particles)" and len(found["particles"]) == 4
    assert {one["text"] for one in found["particles"]} <= {"yes", "no"}
    shown = run("generate", "x", *family.two, *LENGTH, *options)
    assert shown.out == found["drawn"] + "\n"
    assert "conditional (4 particles)" in shown.err and "log evidence" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--particles is given without a grammar of the text. Give one"),
        (["--choice", "a", "--n", "2"], "--n is given beside --particles"),
        (["--choice", "a", "--logprobs", "2"], "--logprobs is given beside --particles"),
        (["--choice", "a", "--stream"], "--stream is given beside --particles"),
    ],
)
def test_options_that_exclude_particles(
    options: list[str], message: str, family: Family, run: Run
) -> None:
    outcome = run("generate", "x", *family.two, "--particles", "4", *options)
    assert outcome.code == 2 and message in outcome.error
