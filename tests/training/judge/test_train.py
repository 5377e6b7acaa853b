"""`outrider train judge` from a file to a probe, used by the library and the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import outrider
from outrider import kernels
from outrider.acceptance import Probe
from outrider.cli.app import app, main
from outrider.core.errors import OptionError, StrategyError, VocabularyError
from outrider.training.judge.train import train_judge
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [
    pytest.mark.method("judge"),
    pytest.mark.skipif(not kernels.available(), reason="no compiled kernels"),
]

RECIPE = """
name = "small"
target = "tiny"
prompts = 10
measured = 3
held_out = 3
longest = 24
depth = 4
penalties = [0.1]
{more}

[[tasks]]
name = "sums"
file = "sums.jsonl"
form = "question"
share = 1.0
answer = "{answer}"
licence = "CC0-1.0"
"""


def written(folder: Path, more: str = "", answer: str = "number") -> Path:
    """The file of a recipe, and its tasks beside it."""
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(more=more, answer=answer), encoding="utf-8")
    questions = [
        f"There are {10 * i + 17} birds and {i + 3} fly. How many are left?" for i in range(16)
    ]
    lines = [json.dumps({"question": question}) for question in questions]
    (folder / "sums.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a probe that the command line has trained, and what the command said."""
    folder = tmp_path_factory.mktemp("judge")
    words = ["train", "judge", str(written(folder)), "--data", str(folder)]
    result = CliRunner().invoke(app, [*words, "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    yield folder / "run" / "small", result.output


def test_from_a_file_to_a_probe(run: tuple[Path, str]) -> None:
    folder, said = run
    probe = Probe.read(folder)
    assert probe.weight.shape == (256,) and probe.vocab_size == 4096
    assert 0.0 < probe.threshold <= 1.0 and {0, 3} <= probe.special_ids
    facts = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    assert 0 < facts["important"] < facts["tokens"]
    measured = {round(one["threshold"], 6): one for one in facts["measured"]}
    assert measured[1.0]["changed"] == 0.0 and measured[1.0]["same_answers"] == 1.0
    assert measured[0.0]["changed"] > 0.0
    assert measured[0.0]["tokens_a_round"] > measured[1.0]["tokens_a_round"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "lossy" in card and "CC0-1.0" in card and "| sums | number |" in card
    assert "tokens tried" in said and "threshold 1: " in said and str(folder) in said


def test_the_trained_threshold_refuses_the_important_tokens(run: tuple[Path, str]) -> None:
    facts = json.loads((run[0] / "judge.json").read_text(encoding="utf-8"))
    assert facts["recall"] >= 0.9


def test_a_trained_probe_by_load_and_from_the_command_line(
    run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Threshold 1 writes the target's text; a lower one changes tokens, and both ways agree."""
    question = [{"role": "user", "content": "There are 41 birds and 9 fly. How many are left?"}]
    write = {"temperature": 0.0, "max_new_tokens": 20}
    plain = outrider.load("tiny", drafter="none", threads=1).generate(question, **write)

    def text(threshold: str, **more) -> outrider.Result:
        rule = f"judge(probe={run[0]}{threshold})"
        options = {"num_speculative_tokens": 6, "threads": 1, **more}
        return outrider.load("tiny", drafter="model", rule=rule, **options).generate(
            question, **write
        )

    assert text(",threshold=1").token_ids == plain.token_ids
    assert text(",threshold=0,max_changed=0").token_ids == plain.token_ids
    loose = text(",threshold=0")
    assert any(loose.changed) and loose.to_dict()["speculation"]["exactness"] == "lossy"
    words = ["generate", question[0]["content"], "--target", "tiny", "--drafter", "model"]
    words += ["--rule", f"judge(probe={run[0]},threshold=0)", "--num-speculative-tokens", "6"]
    words += ["--temperature", "0", "--max-new-tokens", "20", "--threads", "1", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["token_ids"] == list(loose.token_ids)
    assert found["speculation"]["mode"] == "judge"
    assert found["speculation"]["changed_tokens"] == sum(loose.changed)


def test_labels_of_one_kind_are_refused(tmp_path: Path) -> None:
    """The answer to this task holds no number, so no token is tried."""
    file = written(tmp_path)
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "Say yes."}), encoding="utf-8")
    with pytest.raises(OptionError, match="both kinds are needed"):
        train_judge(file, data=tmp_path, out=tmp_path / "run", report=print)


def test_wrong_recipes_are_refused(tmp_path: Path) -> None:
    for more, said in (
        ("recall = 0.0", "recall is 0"),
        ("penaltys = [0.1]", "penalties"),
        ("draft = 3", "draft is 3"),
    ):
        with pytest.raises(OptionError, match=said):
            train_judge(written(tmp_path, more), data=tmp_path, out=tmp_path / "run")
    with pytest.raises(OptionError, match="unknown answer of tasks: 'numbr'"):
        train_judge(written(tmp_path, answer="numbr"), data=tmp_path, out=tmp_path / "run")
    with pytest.raises(OptionError, match="no data directory"):
        train_judge(written(tmp_path), data=tmp_path / "nowhere", out=tmp_path / "run")
    alone = written(tmp_path)
    alone.write_text(alone.read_text().replace('"tiny"', f'"{make_checkpoint(tmp_path / "m")}"'))
    with pytest.raises(OptionError, match="no draft model is given"):
        train_judge(alone, data=tmp_path, out=tmp_path / "run")


def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", tokenizer=True)
    with pytest.raises(VocabularyError):
        train_judge(written(tmp_path, f'draft = "{other}"'), data=tmp_path, out=tmp_path / "run")


def test_a_probe_of_another_target_is_refused(run: tuple[Path, str], tmp_path: Path) -> None:
    """The probe reads states of 256 numbers."""
    other = make_checkpoint(tmp_path / "other", tokenizer=True)
    with pytest.raises(StrategyError, match="reads states of size 256"):
        outrider.load(str(other), drafter="lookup", rule=f"judge(probe={run[0]})")
