"""Prompts that ship, and files of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.workloads import WORKLOADS, read_workloads
from outrider.core.errors import OptionError

SPEC_BENCH = Path(__file__).parents[2] / "../shared/data/eval_spec_bench/question.jsonl.zst"


def write(file: Path, *records: Any) -> str:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_ships_prompts_enough(name: str) -> None:
    tasks = read_workloads([name])
    assert len(tasks) == 32
    assert {t.workload for t in tasks} == {name}
    assert len({t.id for t in tasks}) == 32


def test_a_limit_holds_for_each_workload() -> None:
    tasks = read_workloads(list(WORKLOADS), limit=3)
    assert [t.workload for t in tasks] == [name for name in WORKLOADS for _ in range(3)]


def test_copies_hold_what_is_to_be_copied() -> None:
    for task in read_workloads(["copy"]):
        assert len(task.prompt[-1]["content"]) > 100  # pyright: ignore[reportArgumentType, reportIndexIssue]


def test_every_form_of_prompt(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    name = write(
        tmp_path / "mine.jsonl",
        {"prompt": "a"},
        {"text": "b"},
        "",
        {"messages": messages},
        {"turns": ["Hi", "And then?"]},
        {"prompt": messages},
    )
    tasks = read_workloads([name])
    assert [t.prompt for t in tasks] == ["a", "b", messages, messages, messages]
    assert [t.id for t in tasks] == [f"mine/{n}" for n in (1, 2, 4, 5, 6)]


def test_categories_become_workloads(tmp_path: Path) -> None:
    lines = [
        {"question_id": n, "category": "rag" if n % 2 else "qa", "turns": [f"Q{n}?"]}
        for n in range(6)
    ]
    tasks = read_workloads([write(tmp_path / "q.jsonl", *lines)], limit=2)
    assert [t.id for t in tasks] == ["qa/0", "qa/2", "rag/1", "rag/3"]


@pytest.mark.skipif(not SPEC_BENCH.exists(), reason="the data set is not here")
def test_spec_bench_is_read_as_it_is() -> None:
    pytest.importorskip("zstandard")
    tasks = read_workloads([str(SPEC_BENCH)])
    assert len(tasks) == 480
    assert len({t.workload for t in tasks}) == 13
    assert all(t.prompt[0]["role"] == "user" for t in tasks)  # pyright: ignore[reportArgumentType, reportIndexIssue]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['{"prompt": "a"}', "nonsense"], "mine.jsonl line 2 is not JSON: 'nonsense'"),
        (['{"prompt": "a"}', "", '{"question": "a"}'], "mine.jsonl line 3 holds no prompt"),
        (["[1]"], "mine.jsonl line 1 holds no prompt"),
        (['{"prompt": 5}'], "mine.jsonl line 1: 'prompt' is 5"),
        (['{"turns": []}'], "mine.jsonl line 1: 'turns' is []"),
        (['{"messages": [{"role": "user"}]}'], "mine.jsonl line 1: 'messages' is"),
        (['{"prompt": "  "}'], "mine.jsonl line 1: 'prompt' is '  '"),
        ([""], "holds no prompt. Give one JSON object per line"),
    ],
)
def test_a_wrong_line_is_named(lines: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        read_workloads([write(tmp_path / "mine.jsonl", *lines)])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    latin, packed = tmp_path / "latin.jsonl", tmp_path / "packed.jsonl.zst"
    latin.write_bytes(b'{"prompt": "caf\xe9"}\n')
    packed.write_bytes(b'{"prompt": "not compressed"}\n')
    for name, expected in {
        "storys": "Did you mean 'stories'?",
        "missing.jsonl": "there is no file of prompts at missing.jsonl",
        str(tmp_path): "there is no file of prompts",
        str(latin): "is not text in UTF-8",
        str(packed): "is not compressed with zstd",
    }.items():
        with pytest.raises(OptionError, match=r".*") as error:
            read_workloads([name])
        assert expected in str(error.value)
