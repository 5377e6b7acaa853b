"""`outrider chat`: history, commands, blocks of lines, and pasted paragraphs."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from outrider.engine.load import load
from outrider.models.caches import prefill
from tests.cli.conftest import Family, Run
from tests.models.setups.make_checkpoints import CHAT_TEMPLATE, make_checkpoint

LENGTH = ["--max-new-tokens", "8"]
TEXT = "First line\n\n/reset\nlast line"


def test_chat_remembers_and_forgets(family: Family, run: Run) -> None:
    length = ["--max-new-tokens", "8"]
    once = run("chat", *family.two, *length, stdin="Hello\n").out
    talk = "Hello\n/stats\n\n/reset\nHello\nHello\n/quit\nnever read\n"
    outcome = run("chat", *family.two, *length, stdin=talk)
    assert outcome.code == 0
    assert outcome.out.startswith(once + once)
    assert len(outcome.out) > len(once + once)
    assert "tokens/s" in outcome.err


def test_chat_survives_a_full_context(family: Family, run: Run) -> None:
    talk = "x" * 300 + "\nHello\n/stat\n"
    outcome = run("chat", *family.two, "--max-new-tokens", "8", stdin=talk)
    assert outcome.code == 0
    assert "256" in outcome.err and "/reset clears the conversation" in outcome.err
    assert "Did you mean '/stats'?" in outcome.err
    assert outcome.out == run("chat", *family.two, "--max-new-tokens", "8", stdin="Hello\n").out


def test_each_answer_has_its_figures(family: Family, run: Run) -> None:
    outcome = run("chat", *family.two, *LENGTH, stdin="Hello\nHello\n")
    figures = [line for line in outcome.err.splitlines() if "tokens/s" in line]
    assert len(figures) == 2
    assert all(line.startswith("8 tokens, ") and "; cut here" in line for line in figures)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each part of a prompt that is read: the first token, and the length of the prompt."""
    found: list[tuple[int, int]] = []
    chunk = prefill.Reading.chunk

    def seen(self: prefill.Reading) -> Any:
        start = self.cache.length
        segment = chunk(self)
        if segment is not None:
            found.append((start, len(self.tokens)))
        return segment

    monkeypatch.setattr(prefill.Reading, "chunk", seen)
    return found


def test_a_turn_keeps_what_was_read(family: Family, run: Run, reads: list[tuple[int, int]]) -> None:
    run("chat", *family.alone, *LENGTH, stdin="Hello\nAnd then?\n")
    # The answers of this model are bytes at random, whose text has other tokens.
    asked = len("Hello") + 3
    assert reads[-2:][0] == (0, asked) and reads[-1][0] == asked - 1


def test_the_system_message(family: Family, run: Run) -> None:
    given = run("chat", *family.alone, *LENGTH, "--system", "Be brief.", stdin="Hello\n").out
    typed = run("chat", *family.alone, *LENGTH, stdin="/system Be brief.\nHello\n").out
    assert typed == given != run("chat", *family.alone, *LENGTH, stdin="Hello\n").out
    kept = run("chat", *family.alone, *LENGTH, stdin="/system Be brief.\nX\n/reset\nHello\n").out
    assert kept.endswith(given)


def test_a_template_without_system_messages(tmp_path: Path, run: Run) -> None:
    folder = make_checkpoint(tmp_path / "model", tokenizer=True)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusing + CHAT_TEMPLATE)
    words = ["chat", "--target", folder, "--mode", "none", *LENGTH]
    plain = run(*words, stdin="Hello\n")
    outcome = run(*words, stdin="/system Be brief.\nHello\n")
    assert (outcome.code, outcome.out) == (0, plain.out)
    assert "error: the chat template" in outcome.err and "no system" in outcome.err
    assert run(*words, "--system", "Be brief.").code == 2


def test_a_conversation_is_saved(family: Family, run: Run, tmp_path: Path) -> None:
    file, other = tmp_path / "talk.json", tmp_path / "other.json"
    other.write_text("mine")
    talk = f"/save {file}\n/system S\nHello\n/save {file}\nYes\n/save {file}\n"
    outcome = run("chat", *family.alone, *LENGTH, stdin=f"{talk}/save {other}\n/save {tmp_path}\n")
    assert "error: there is no answer to save yet" in outcome.err
    assert f"error: {other} exists already. Give another name" in outcome.err
    assert other.read_text() == "mine"
    found = json.loads(file.read_text())
    assert [m["role"] for m in found] == ["system", *["user", "assistant"] * 2]
    assert outcome.out == "".join(f"{m['content']}\n" for m in found if m["role"] == "assistant")
    refused = run("chat", *family.alone, *LENGTH, stdin="Hello\n/save /nowhere/x.json\n")
    assert refused.code == 0 and "error: /nowhere/x.json cannot be written" in refused.err


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/sytem x", "unknown command /sytem. Did you mean '/system'?"),
        ("/system", "/system takes TEXT, but nothing is given. Type /system TEXT"),
        ("/save", "/save takes FILE"),
        ("/reset now", "/reset takes nothing after it, but 'now' is given. Type /reset"),
        ("/usr/bin is a folder", "a message between"),
    ],
)
def test_wrong_commands(line: str, error: str, family: Family, run: Run) -> None:
    outcome = run("chat", *family.alone, *LENGTH, stdin=f"{line}\n")
    assert (outcome.code, outcome.out) == (0, "")
    assert error in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("end", ["/exit", "/quit", ""])
def test_help_and_end(end: str, family: Family, run: Run) -> None:
    outcome = run("chat", *family.alone, *LENGTH, stdin=f"/help\n{end}\n")
    assert outcome.code == 0
    for name in ("/system TEXT", "/reset", "/save FILE", "/help", "/exit"):
        assert outcome.err.count(f"  {name} ") == 2, "at the start, and when asked"


def test_a_block_is_one_message(family: Family, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    for block in (f'"""{TEXT}"""', f'"""\n{TEXT}\n"""  '):
        file.unlink(missing_ok=True)
        outcome = run("chat", *family.alone, *LENGTH, stdin=f"{block}\n/save {file}\n")
        assert outcome.code == 0
        assert json.loads(file.read_text())[0] == {"role": "user", "content": TEXT}
    command = run("chat", *family.alone, *LENGTH, stdin='"""/reset"""\n')
    assert command.out, "a command in a block is text"
    unfinished = run("chat", *family.alone, *LENGTH, stdin='"""\nHello\n')
    assert unfinished.code == 2 and "has no end" in unfinished.err.splitlines()[-1]


READ = """
from outrider.cli.ui.messages import prepare_terminal, read_message
prepare_terminal()
print(f"<{read_message()!r}>")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU readline and a pseudo-terminal")
def test_a_pasted_paragraph_is_one_message() -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit has no bracketed paste")
    ours, theirs = os.openpty()
    ask_for_marks = b"\x1b[?2004h"
    env = os.environ | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", READ], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as child:
        os.close(theirs)
        shown = _shown_until(ours, b"> ")
        os.write(ours, b"\x1b[200~" + TEXT.encode() + b"\x1b[201~\r")
        shown += _shown_until(ours, b")>")
        child.wait(20)
    os.close(ours)
    assert ask_for_marks in shown, "else a terminal sends a paste as if it were typed"
    assert f"<Message(text={TEXT!r}, block=False)>".encode() in shown


def _shown_until(terminal: int, mark: bytes) -> bytes:
    """What the terminal shows up to `mark`, for at most 20 seconds."""
    shown, end = b"", time.monotonic() + 20
    while mark not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1 << 16)
    return shown


@pytest.mark.slow
def test_a_real_model_answers_the_whole_conversation(
    smollm2: Path, run: Run, reads: list[tuple[int, int]]
) -> None:
    said = ["Name three primary colors.", "Now in upper case.", "And one more?"]
    options: dict[str, Any] = {"threads": 1, "dtype": "stored"}
    generator = load(smollm2, mode="none", **options)
    messages: list[dict[str, str]] = []
    for text in said:
        messages.append({"role": "user", "content": text})
        generator.reset()
        answer = generator.generate(messages, max_new_tokens=40).text
        messages.append({"role": "assistant", "content": answer})
    words = ["chat", "--target", "smollm2", "--threads", "1", "--dtype", "stored"]
    outcome = run(*words, "--max-new-tokens", "40", stdin="\n".join(said))
    assert outcome.out == "".join(f"{m['content']}\n" for m in messages[1::2])
    (_, second), (start, third) = reads[-2:]
    assert start > second and third - start < 20, "only the new message"
