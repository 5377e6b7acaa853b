"""The program as a process: signals at any moment, streams that are closed or full, full disks."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import outrider
from tests.fuzz.case import STREAMS, Case
from tests.fuzz.sandbox import Sandbox, cpu_seconds
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full"),
]

PROGRAM = [sys.executable, "-m", "outrider"]
TEXT = "Once upon a time"
START = 0.15
"""Seconds until Python has started; before that, it reports a signal itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the size of a second for 10,000 tokens of prompt, and files for each command."""
    place = tmp_path_factory.mktemp("process")
    make_checkpoint(place / "small", tokenizer=True)
    make_checkpoint(
        place / "slow",
        tokenizer=True,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        max_position_embeddings=40_000,
    )
    (place / "text.txt").write_text("Once upon a time there was a fox. " * 40)
    (place / "long.txt").write_text("Once upon a time. " * 1500)
    (place / "prompts.jsonl").write_text(json.dumps({"prompt": TEXT}) + "\n")
    return place


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that ends within seconds."""
    small, text = str(folder / "small"), str(folder / "text.txt")
    few = ["--max-new-tokens", "4"]
    bench = ["tiny", "--prompts", "1", "--max-new-tokens", "4", "--repeats", "1"]
    bench += ["--workloads", "stories", "--strategies", "lookup"]
    return {
        "help": ["--help"],
        "version": ["--version"],
        "methods": ["methods"],
        "methods --json": ["methods", "--json"],
        "info": ["info", small],
        "generate": ["generate", TEXT, "--target", small, "--mode", "none", *few],
        "generate --json": ["generate", TEXT, "--target", small, "--mode", "none", *few, "--json"],
        "generate --stream": ["generate", TEXT, *few, "--stream"],
        "generate --help": ["generate", "--help"],
        "chat": ["chat", "--target", small, "--mode", "none", *few],
        "summarize": ["summarize", text, "--target", "tiny", *few],
        "demo": ["demo", "--tokens", "2"],
        "calibrate": ["calibrate", "--prompts", str(folder / "prompts.jsonl"), "--tokens", "4"],
        "datastore": [
            *("datastore", "build", text, "--tokenizer", small),
            *("--out", str(folder / "store"), "--force"),
        ],
        "bench verify-cost": ["bench", "verify-cost", small, "--repeats", "1"],
        "bench speed": ["bench", "speed", *bench],
        "train": ["train", "--help"],
        "caption": ["caption", "--help"],
    }


def ended(words: list[str], redirection: str = "") -> "subprocess.CompletedProcess[str]":
    line = ["sh", "-c", f'"$@" {redirection}', "sh", *PROGRAM, *words]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=300, input="Hello\n"
    )


def assert_quiet(errors: str, lines: int = 1) -> None:
    """At most this many lines, and nothing from Python itself."""
    assert "Traceback" not in errors and "Exception ignored" not in errors, errors
    assert len([line for line in errors.splitlines() if "error" in line]) <= lines, errors


LIGHT = ("help", "version", "generate --help", "train", "caption")
"""Commands that start within a second, because they do not import PyTorch."""


def assert_told(streams: str, code: int, errors: str) -> None:
    """Standard output that fails is one line and exit code 1; standard error is nobody's."""
    assert_quiet(errors)
    if streams.startswith(">"):
        assert code == 1, errors
        assert "error: standard output: " in errors
    elif streams.startswith("2"):
        assert code == 0


@pytest.mark.parametrize("command", LIGHT)
def test_output_of_a_process_that_is_closed_or_full(command: str, folder: Path) -> None:
    for streams in STREAMS:
        done = ended(commands(folder)[command], streams)
        assert_told(streams, done.returncode, done.stderr)


@pytest.mark.parametrize("command", sorted({*commands(Path())} - {*LIGHT}))
def test_output_that_is_closed_or_full(command: str, folder: Path, sandbox: Sandbox) -> None:
    for streams in STREAMS:
        notes = command in ("chat", "calibrate", "demo")
        case = case_of(commands(folder)[command], streams=streams, codes=(0, 1), notes=notes)
        outcome = sandbox.run(case)
        assert outcome.fault(case) == "", streams
        assert_told(streams, outcome.code, outcome.output if streams[0] != "2" else "")


def case_of(words: list[str], **more: Any) -> Case:
    """A case without files of its own."""
    return Case(name="", make=lambda _: None, arguments=tuple(words), stdin=b"Hello\n", **more)


# -- signals ----------------------------------------------------------------------------------


def cpu_of_children() -> float:
    """CPU time of all children that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interrupted(
    words: list[str], seconds: float, number: int, stdin: int | IO[str] = subprocess.DEVNULL
) -> tuple[int, str, float]:
    """Run a command and send a signal after some time; return exit code, standard error, and the
    CPU time from the signal to the end.
    """
    before = cpu_of_children()
    child = subprocess.Popen(
        [*PROGRAM, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    sent = cpu_seconds(child.pid)
    child.send_signal(number)
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors, cpu_of_children() - before - sent


WRITES = ["generate", TEXT, "--max-new-tokens", "400", "--target", "tiny"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start(number: signal.Signals) -> None:
    """Real processes: most of these moments are imports."""
    moments = random.Random(int(number))
    for _ in range(10):
        seconds = moments.uniform(START, 4.0)
        code, errors, delay = interrupted(WRITES, seconds, number)
        assert code in (128 + number, 0), (seconds, code, errors)  # 0: it had ended
        assert_quiet(errors, lines=0)
        assert delay < 5, seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment(number: signal.Signals, sandbox: Sandbox) -> None:
    """Children of the sandbox: everything is imported, and most moments load or write."""
    longest = sandbox.run(case_of(WRITES, codes=(0,))).seconds
    moments, codes = random.Random(int(number)), (128 + int(number), 0)
    if number is signal.SIGTERM:
        codes += (-int(number),)  # before the command begins, the system itself ends the process
    ended = 0
    for _ in range(40):
        after = moments.uniform(0.02, longest)
        case = case_of(WRITES, codes=codes, signal=int(number), after=after)
        outcome = sandbox.run(case)
        assert outcome.fault(case) == "", after
        assert_quiet(outcome.output, lines=0)
        assert outcome.delay < 5, after
        ended += outcome.code == 0
    assert ended < 30, "the moments are too late"


def test_ctrl_c_during_a_long_prompt(folder: Path) -> None:
    words = ["generate", "-", "--target", str(folder / "slow"), "--mode", "none", "--threads", "1"]
    words += ["--dtype", "float32"]
    with (folder / "long.txt").open() as prompt:
        code, errors, delay = interrupted(words, 12, signal.SIGINT, prompt)
    assert code == 130 and errors == ""
    assert delay < 6


# -- files on a full disk ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["datastore", "calibrate", "bench speed", "bench folder"])
def test_a_file_on_a_full_disk(
    command: str, folder: Path, tmp_path: Path, sandbox: Sandbox
) -> None:
    """The system refuses to write more than 300 bytes to a file; pipes have no such limit."""
    out = {"calibrate": "c.json", "bench speed": "b.jsonl", "bench folder": "runs"}
    words = list(commands(folder)[command.replace("folder", "speed")])
    if command in out:
        words += ["--out", str(tmp_path / out[command])]
    notes = command in ("calibrate", "bench speed")
    case = case_of(words, file_bytes=300, codes=(1, 2), expect="cannot be written: ", notes=notes)
    outcome = sandbox.run(case)
    assert outcome.fault(case) == ""
    assert_quiet(outcome.output)


# -- the library ------------------------------------------------------------------------------


class Interrupts:
    """Raises `KeyboardInterrupt` at a line of the package, counted from the start."""

    def __init__(self, at: int) -> None:
        self.at, self.lines = at, 0

    def __enter__(self) -> "Interrupts":
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def trace(self, frame: Any, event: str, _: object) -> Any:
        if "/outrider/" not in frame.f_code.co_filename:
            return None  # lines of other packages are not counted
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace


@pytest.fixture
def untraced() -> Iterator[None]:
    """Coverage and debuggers trace as well."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


@pytest.mark.parametrize("drafter", [None, "recycling", "lookahead", "suffix", "sam", "stand"])
@pytest.mark.usefixtures("untraced", "unchecked")
def test_a_generator_is_usable_after_an_interrupt(drafter: str | None) -> None:
    options: dict[str, Any] = {} if drafter is None else {"drafter": drafter}
    load = lambda: outrider.load("tiny", threads=1, **options)  # noqa: E731
    prompts = [TEXT, f"{TEXT} there was a small dog. {TEXT}"]
    wanted = [load().generate(p, max_new_tokens=16, temperature=0.0).token_ids for p in prompts]
    generator = load()
    with Interrupts(-1) as all_lines:
        generator.generate(prompts[1], max_new_tokens=16, temperature=0.0)
    moments = random.Random(0)
    for _ in range(60):
        interrupts = Interrupts(moments.randrange(1, all_lines.lines))
        try:
            with interrupts:
                generator.generate(moments.choice(prompts), max_new_tokens=16, temperature=0.0)
        except KeyboardInterrupt:
            pass
        for prompt, expected in zip(prompts, wanted, strict=True):
            found = generator.generate(prompt, max_new_tokens=16, temperature=0.0).token_ids
            assert found == expected, interrupts.at
