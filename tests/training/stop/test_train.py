"""`outrider train stop` on the tiny family, and the head in the library and the command line."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import outrider
from outrider import kernels
from outrider.cli.app import app, main
from outrider.core.errors import OptionError
from outrider.policies import SpecDecPlus, StopHead
from outrider.training.core.pairs import ModelPair, load_pair
from outrider.training.stop.data import answers, collect, drafted, rows_of
from outrider.training.stop.fit import Fitting, fit_head, fresh_head, stop_loss
from outrider.training.stop.measure import calibration
from outrider.training.stop.train import train_stop

pytestmark = [
    pytest.mark.method("specdec-plus"),
    pytest.mark.skipif(not kernels.available(), reason="no compiled kernels"),
]

RECIPE = """
name = "small"
target = "tiny"
texts = 12
held_out = 2
longest = 16
epochs = 2
depth = 4
{more}

[[prompts]]
name = "questions"
file = "questions.jsonl"
form = "question"
share = 1.0
licence = "CC0-1.0"
"""
WRITE = {"temperature": 0.8, "seed": 5, "max_new_tokens": 32}
QUESTION = [{"role": "user", "content": "There are 41 birds and 9 fly. How many are left?"}]


def written(folder: Path, more: str = "") -> Path:
    """The file of a recipe, and its prompts beside it."""
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(more=more), encoding="utf-8")
    lines = [json.dumps({"question": f"What can {i + 2} birds do?"}) for i in range(16)]
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return file


@cache
def pair() -> ModelPair:
    return load_pair("tiny")


@cache
def prompts(count: int = 24) -> list[tuple[int, ...]]:
    words = [f"Tell me about {name}." for name in ("dogs", "cats", "rain", "music")]
    words += [f"There are {i + 9} birds and {i} fly. How many?" for i in range(2, count)]
    return [pair().tokenizer.chat([{"role": "user", "content": word}]) for word in words[:count]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a head that the command line has trained, and what the command said."""
    folder = tmp_path_factory.mktemp("stop")
    words = ["train", "stop", str(written(folder)), "--data", str(folder)]
    result = CliRunner().invoke(app, [*words, "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    yield folder / "run" / "small", result.output


def test_labels_and_states_are_those_of_the_paper() -> None:
    """Without copies: label min(1, p(y) / q(y)) after the answer's prefix; the state after y is
    that of a text of drafted tokens."""
    [answer] = list(answers(pair(), prompts()[:1], 12, 1.0, 0))
    found = drafted(pair(), answer, 0.7, 0.0, torch.Generator().manual_seed(3))
    q = (rows_of(pair().draft, answer.prompt, answer.text).logits[:-1].double() / 0.7).softmax(-1)
    p = (rows_of(pair().target, answer.prompt, answer.text).logits[:-1].double() / 0.7).softmax(-1)
    tokens = torch.multinomial(q, 1, generator=torch.Generator().manual_seed(3))
    ratio = (p.gather(1, tokens) / q.gather(1, tokens))[:, 0].clamp(max=1.0)
    torch.testing.assert_close(found.kept, ratio)
    own = rows_of(pair().draft, answer.prompt, tuple(tokens[:, 0].tolist())).hidden
    assert own is not None
    torch.testing.assert_close(found.states, own[1:])


def test_the_answers_own_tokens_are_read_and_not_learned() -> None:
    [answer] = list(answers(pair(), prompts()[:1], 16, 1.0, 0))
    generator = torch.Generator().manual_seed(0)
    counts = [len(drafted(pair(), answer, 1.0, share, generator)) for share in (0.0, 0.5, 0.99)]
    assert counts[0] == len(answer.text) > counts[1] > counts[2]


def test_the_loss_is_the_papers() -> None:
    odds, kept = torch.tensor([0.3, -1.2]), torch.tensor([0.8, 0.1])
    s = odds.sigmoid()
    own = -(kept * s.log() + 6.0 * (1 - kept) * (1 - s).log()).mean()
    assert float(stop_loss(odds, kept, 6.0)) == pytest.approx(float(own))
    assert fresh_head(4, 3, 6.0, 0)(torch.ones(4)) == 0.5


def test_predicted_survival_is_the_true_one() -> None:
    """Calibration on other answers: the trained head beats one that has learned nothing."""
    found = list(answers(pair(), prompts(), 32, 1.0, 0))
    others, found = found[::3], [one for i, one in enumerate(found) if i % 3]
    learned = collect(pair(), found, 1.0, 0.15, 0, lambda done: None)
    head = fit_head(learned, Fitting(epochs=8, batch=64, learning_rate=2e-3))
    checked = calibration(pair(), head, others, 4, 1.0, 1)
    assert checked.drafts > 10
    assert checked.true == sorted(checked.true, reverse=True) and checked.true[0] > 0.4
    assert checked.error < 0.13
    fresh = calibration(pair(), fresh_head(head.width, 3, 6.0, 0), others, 4, 1.0, 1)
    assert fresh.true == checked.true and fresh.error > 2.0 * checked.error


def test_from_a_file_to_a_head(run: tuple[Path, str]) -> None:
    folder, said = run
    head = StopHead.read(folder)
    assert head.width == 96 and len(head.layers) == 3 and head.mismatch_weight == 6.0
    facts = json.loads((folder / "stop.json").read_text(encoding="utf-8"))
    assert facts["tokens"] > 50 and len(facts["true"]) == 4 and len(facts["measured"]) == 10
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "CC0-1.0" in card and "specdec-plus(eta=0.5,head)" in card
    assert "drafted tokens" in said and str(folder) in said


def test_a_trained_head_changes_lengths_and_no_text(
    run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By `load` and from the command line; the drafted tokens of a round grow with eta."""

    one = pair()
    models = {"target": one.target, "draft": one.draft, "tokenizer": one.tokenizer}
    plain = outrider.load(**models, drafter="none").generate(QUESTION, **WRITE).token_ids
    sizes = []
    for eta in (0, 0.6, 0.95, 1):
        policy = f"specdec-plus(eta={eta},least=1,longest=8,head={run[0]})"
        found = outrider.load(**models, drafter="model", policy=policy).generate(QUESTION, **WRITE)
        assert found.token_ids == plain
        sizes.append(found.to_dict()["speculation"]["mean_draft_length"])
    assert sizes == sorted(sizes) and sizes[0] == 1.0 and sizes[0] < sizes[2] < sizes[3]
    words = ["generate", QUESTION[0]["content"], "--target", "tiny", "--drafter", "model"]
    words += ["--policy", f"specdec-plus(head={run[0]})", "--threads", "1", "--json", "--seed", "5"]
    capsys.readouterr()
    assert main([*words, "--temperature", "0.8", "--max-new-tokens", "32"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)["token_ids"]) == tuple(plain)


def test_the_decision_comes_one_token_late(run: tuple[Path, str]) -> None:
    """The state that scores a token exists after the next draft forward: with a head that trusts
    nothing, the first token counts as kept, and a draft ends after the second one."""
    head = StopHead.read(run[0])
    never = StopHead(layers=(), weight=torch.zeros(2, head.width), bias=torch.tensor([9.0, -9.0]))
    policy = SpecDecPlus(eta=0.5, least=1, longest=8, head=never)
    one = pair()
    generator = outrider.load(
        one.target, draft=one.draft, tokenizer=one.tokenizer, drafter="model", policy=policy
    )
    found = generator.generate(QUESTION, max_new_tokens=24).to_dict()["speculation"]
    assert 1.8 < found["mean_draft_length"] <= 2.0


def test_wrong_recipes_are_refused(tmp_path: Path) -> None:
    for more, said in (
        ("temperature = 0.0", "temperature is 0"),
        ("copied = 1.0", "copied is 1"),
        ("eta = 0.5", "unknown key"),
    ):
        with pytest.raises(OptionError, match=said):
            train_stop(written(tmp_path, more), data=tmp_path, out=tmp_path / "run")
    with pytest.raises(OptionError, match="no data directory"):
        train_stop(written(tmp_path), data=tmp_path / "nowhere", out=tmp_path / "run")
