"""Training of gates by rewards (RLKV, arXiv 2510.08525) and by hidden states (DuoAttention)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from outrider.core.errors import OptionError
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.heads.rlkv import RLKV
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.weights import Linear
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.gates import train
from outrider.training.gates.config import DuoRecipe, GatesRecipe, RlkvRecipe
from outrider.training.gates.fit import (
    TrainedGates,
    advantages,
    duo_step,
    fit,
    penalty_weight,
    rlkv_step,
    state_loss,
)
from outrider.training.gates.gated import Gated
from outrider.training.gates.problems import Problem
from outrider.training.gates.train import train_gates
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("rlkv"), pytest.mark.method("duo")]

NEEDED = (0, 1)
"""The only head of `planted` that reaches the output: layer 0, KV head 1."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("gates") / "a", tokenizer=True, std=0.3)


@pytest.fixture
def model(source: Path) -> Gated:
    return Gated(Decoder.load(source), 1, 3)


@pytest.fixture
def planted(model: Gated) -> Gated:
    """A model in which the attention of one KV head alone is read."""
    for index, layer in enumerate(model.target.weights.layers):
        assert isinstance(layer.output, Linear)
        weight = layer.output.weight.view(32, 2, 16)
        for head in range(2):
            if (index, head) == NEEDED:
                weight[:, head] *= 4
            else:
                weight[:, head] = 0
    return model


def problems_of(model: Gated, count: int = 12) -> list[Problem]:
    """Texts and what the model writes after them with full attention."""
    found = list[Problem]()
    for number in range(count):
        length = 14 + number % 2
        prompt = np.array([(5 * i * i + 11 * number) % 280 for i in range(length)])
        ids = torch.from_numpy(prompt)[None]
        answer = model.write(ids, torch.ones(model.shape), 2)[0].numpy()
        found.append(Problem("a", prompt, answer, np.arange(length - 3, length + 1)))
    return found


def recipe_of(**given: object) -> GatesRecipe:
    own = {"name": "a", "target": "a", "sinks": 1, "recent": 3} | given
    return GatesRecipe(**own)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    with StopSignal() as signal:
        yield signal


def test_the_penalty_is_0_while_the_reward_is_not_above_tau() -> None:
    assert [penalty_weight(reward, 1e-3, 0.5) for reward in (0.0, 0.3, 0.5)] == [0, 0, 0]
    for reward in (0.51, 0.8, 1.0):
        assert penalty_weight(reward, 1e-3, 0.5) == pytest.approx(1e-3 * (math.exp(reward) - 1))


def test_samples_are_compared_with_those_of_their_query() -> None:
    found = advantages(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]))
    third = 1 / math.sqrt(3)
    true = [[3 * third, -third, -third, -third], [0] * 4, [0] * 4, [1, -1, 1, -1]]
    torch.testing.assert_close(found, torch.tensor(true))


def test_a_step_of_rlkv_adds_policy_gradient_and_penalty(model: Gated) -> None:
    recipe = RlkvRecipe(samples=4, temperature=0.4, penalty=0.5, threshold=0.02)
    gates = TrainedGates(*model.shape)
    with torch.no_grad():
        gates.values.fill_(0.6)
    problems = problems_of(model)
    problems = [one for one in problems if len(one.prompt) == 14]
    told = rlkv_step(model, gates, recipe)(problems, torch.Generator().manual_seed(5))
    prompts = torch.from_numpy(np.stack([one.prompt for one in problems]))
    generator = torch.Generator().manual_seed(5)
    values = gates.values.detach().clone().requires_grad_()
    ids, logs = model.sample(prompts, values, 2, 4, 0.4, generator)
    answers = torch.from_numpy(np.stack([one.answer for one in problems]))
    right = (ids.view(-1, 4, 2) == answers[:, None]).all(-1).float()
    assert told["reward"] == pytest.approx(float(right.mean())) and 0.02 < told["reward"] < 1
    assert told["penalty"] == pytest.approx(0.5 * math.expm1(told["reward"]))
    assert told["mixed"] == pytest.approx(float((right.std(1) > 0).float().mean()))
    loss = -(advantages(right) * logs.view(-1, 4, 2).mean(-1)).mean()
    (loss + told["penalty"] * values.mean()).backward()
    assert gates.values.grad is not None and values.grad is not None
    torch.testing.assert_close(gates.values.grad, values.grad, rtol=1e-3, atol=1e-5)


def test_steps_in_which_all_samples_are_equal(model: Gated) -> None:
    """All wrong: there is no gradient at all. All right: there is the penalty alone."""
    recipe = RlkvRecipe(samples=2, temperature=1e-4, penalty=0.01)
    problems, gates = problems_of(model), TrainedGates(*model.shape)
    wrong = [replace(one, answer=(one.answer + 1) % 280) for one in problems]
    told = rlkv_step(model, gates, recipe)(wrong, torch.Generator())
    assert (told["reward"], told["penalty"]) == (0, 0) and gates.values.grad is None
    told = rlkv_step(model, gates, recipe)(problems, torch.Generator())
    assert told["reward"] == 1 and gates.values.grad is not None
    each = torch.full(model.shape, 0.01 * math.expm1(1) / 4)
    torch.testing.assert_close(gates.values.grad, each)


def test_the_loss_of_duo_is_the_distance_at_rows_that_predict_answers(model: Gated) -> None:
    problems, zero = problems_of(model, 3), torch.zeros(model.shape)
    assert state_loss(model, torch.ones(model.shape), problems) == 0
    squares, count = 0.0, 0
    for one in problems:
        ids = torch.from_numpy(one.ids)[None]
        states = [model.hidden(ids, gates)[0, one.rows] for gates in (zero, zero + 1)]
        squares += float((states[0] - states[1]).square().sum()) / 32
        count += len(one.rows)
    assert float(state_loss(model, zero, problems)) == pytest.approx(squares / count, rel=1e-4)
    gates = TrainedGates(*model.shape)
    told = duo_step(model, gates, DuoRecipe(penalty=0.4))(problems, torch.Generator())
    assert told == {"loss": 0, "gate": 1}
    torch.testing.assert_close(gates.values.grad, torch.full(model.shape, 0.1))


@pytest.mark.parametrize("method", ["rlkv", "duo"])
def test_the_head_that_answers_need_keeps_the_largest_gate(
    method: str, planted: Gated, tmp_path: Path, stop: StopSignal
) -> None:
    before = [layer.qkv.weight.clone() for layer in planted.target.weights.layers]  # type: ignore
    recipe = recipe_of(
        rlkv=RlkvRecipe(steps=40, queries=6, learning_rate=0.05, penalty=0.01, temperature=0.3),
        duo=DuoRecipe(steps=40, texts=6, learning_rate=0.05),
    )
    found = fit(method, planted, problems_of(planted), recipe, tmp_path, stop)
    assert ((found >= 0) & (found <= 1)).all()
    others = found.clone()
    others[NEEDED] = 0
    assert others.max() < 0.05 and found[NEEDED] > 0.2
    for layer, own in zip(planted.target.weights.layers, before, strict=True):
        assert torch.equal(layer.qkv.weight, own)  # type: ignore


def test_gates_stay_within_0_and_1(model: Gated, tmp_path: Path, stop: StopSignal) -> None:
    problems, seen = problems_of(model), list[torch.Tensor]()
    hidden = model.hidden

    def watched(ids: torch.Tensor, gates: torch.Tensor, cache: object = None) -> torch.Tensor:
        seen.append(gates.detach().clone())
        return hidden(ids, gates, cache)  # type: ignore

    model.hidden = watched  # type: ignore
    own = RlkvRecipe(steps=12, queries=6, learning_rate=0.4, penalty=0.01, temperature=0.2)
    recipe = recipe_of(rlkv=own)
    found = fit("rlkv", model, problems, recipe, tmp_path, stop)
    for gates in (*seen, found):
        assert ((gates >= 0) & (gates <= 1)).all()
    assert len({float(gates.mean()) for gates in seen}) > 2


class StopsAt(StopSignal):
    """Asks to stop when it is looked at for the n-th time."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def asked(self) -> bool:  # type: ignore
        self.looks -= 1
        return self.looks == 0


@pytest.mark.parametrize("method", ["rlkv", "duo"])
def test_a_training_continues_from_its_checkpoint(
    method: str, model: Gated, tmp_path: Path, stop: StopSignal
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    problems = problems_of(model)
    recipe = recipe_of(rlkv=RlkvRecipe(steps=6, queries=4), duo=DuoRecipe(steps=6, texts=4))
    whole = fit(method, model, problems, recipe, tmp_path / "a", stop)
    with pytest.raises(TrainingStopped):
        fit(method, model, problems, recipe, tmp_path / "b", StopsAt(3))
    stopped = load_file(tmp_path / "b" / f"{method}.safetensors")["model/gates/values"]
    assert not torch.equal(stopped, whole)
    assert torch.equal(fit(method, model, problems, recipe, tmp_path / "b", stop), whole)
    other = fit(method, model, problems, replace(recipe, seed=1), tmp_path / "c", stop)
    assert not torch.equal(other, whole)


TOML = """
name = "a"
target = "{target}"
tasks = ["codes", "places"]
facts = 2
filler = 30
problems = 9
attempts = 64
sinks = 1
recent = 3

[rlkv]
steps = 2
queries = 2

[duo]
steps = 2
texts = 2
"""


def test_the_files_of_a_run_fit_their_model_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, said = tmp_path / "a.toml", list[str]()
    config.write_text(TOML.format(target=source))
    with pytest.raises(OptionError, match="solves 0 of 64 problems"):
        train_gates(config, out=tmp_path / "none", report=said.append)
    calls = list[str]()

    def all_solved(names: list[str], *rest: object) -> list[str]:
        calls.extend(names)
        assert rest[-1] == 30
        return names[::2]

    def counted(method: str, model: Gated, problems: list[Problem], *rest: object) -> torch.Tensor:
        assert len(problems) == 9 and min(len(one.ids) for one in problems) > 45
        return fit(method, model, problems, *rest)  # type: ignore

    monkeypatch.setattr(train, "solved_names", all_solved)
    monkeypatch.setattr(train, "fit", counted)
    files = train_gates(config, out=tmp_path / "run", report=said.append)
    assert list(files) == ["rlkv", "duo"] and calls == [f"0/{i}" for i in range(32)]
    assert "solves 50% of 32 problems" in said[1]
    info = Decoder.load(source).info
    for method, file in files.items():
        gates = Gates.load(file)
        gates.check(info.fingerprint, 2, 2)
        assert (gates.method, gates.sinks, gates.recent) == (method, 1, 3)
        assert np.array_equal(RLKV(gates=str(file)).loaded.values, gates.values)
        assert gates.facts["steps"] == 2 and gates.facts["tasks"] == ["codes", "places"]
        assert gates.facts["filler"] == 30
        with pytest.raises(OptionError, match="another model"):
            gates.check("b" * 64, 2, 2)
    first = Gates.load(files["rlkv"]).values
    files = train_gates(config, out=tmp_path / "run", report=said.append)
    assert len(calls) == 32  # names and gates of the run are kept
    assert np.array_equal(Gates.load(files["rlkv"]).values, first)
    config.write_text(TOML.format(target=source).replace("facts = 2", "facts = 3"))
    train_gates(config, out=tmp_path / "run", report=said.append)
    assert len(calls) == 64  # other problems
    config.write_text(TOML.format(target=source).replace("filler = 30", "filler = 31"))
    with pytest.raises(AssertionError):
        train_gates(config, out=tmp_path / "run", report=said.append)


def test_faulty_options_are_refused() -> None:
    for given, problem in (
        ({"methods": ("rlvk",)}, "rlvk"),
        ({"methods": ()}, "no method"),
        ({"tasks": ("sums",)}, "sums"),
        ({"facts": 1}, "facts is 1"),
        ({"filler": -1}, "filler is -1"),
        ({"sinks": -1}, "sinks is -1"),
        ({"recent": 0}, "recent is 0"),
    ):
        with pytest.raises(OptionError, match=problem):
            recipe_of(**given)
    for given, problem in (
        ({"samples": 1}, "samples is 1"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"penalty": -1.0}, "penalty is -1"),
    ):
        with pytest.raises(OptionError, match=problem):
            RlkvRecipe(**given)
    with pytest.raises(OptionError, match="texts is 0"):
        DuoRecipe(texts=0)
