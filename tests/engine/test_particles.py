"""`sample_constrained`: prompts, options and results on a real runner."""

import math
from typing import Any

import pytest

from outrider import Checker, Generator, load
from outrider.core.errors import LogitsError, OptionError
from outrider.engine.particles.posterior import Posterior
from tests.engine.conftest import Folders

CHOICES = ["ab", "abc", "b", "ca"]
KNOWN = [text.encode() for text in CHOICES]


@pytest.fixture(scope="module")
def generator(folders: Folders) -> Generator:
    return load(folders.target, drafter="none", dtype="float32")


def checker(**options: Any) -> Checker:
    return Checker(
        lambda text: any(one.startswith(text) for one in KNOWN),
        lambda text: text in KNOWN,
        "four words",
        **{"max_checks": 400, **options},
    )


def test_texts_and_weights(generator: Generator) -> None:
    found = generator.sample_constrained("xy", choice=CHOICES, particles=6, seed=1)
    assert isinstance(found, Posterior)
    assert found.exactness == "conditional (6 particles)" and found.seed == 1
    assert set(found.texts) <= set(CHOICES)
    assert sum(found.texts.values()) == pytest.approx(1.0)
    assert list(found.texts.values()) == sorted(found.texts.values(), reverse=True)
    assert found.best.text == next(iter(found.texts))
    assert found.draw() is found.draw(0) and found.draw().text in found.texts
    drawn = [found.draw(i).text for i in range(200)]
    for text, weight in found.texts.items():
        assert abs(drawn.count(text) / 200 - weight) < 0.15
    assert found.log_evidence < 0.0 and 1.0 <= found.effective_size <= 6.0
    assert found.checker_calls > 0 and found.given_up == 0
    assert {one.finish_reason for one in found.particles} == {"stop"}
    plain = found.to_dict()
    assert plain["best"] == found.best.text and len(plain["particles"]) == 6


def test_checkers_and_grammars_of_the_same_texts_agree(generator: Generator) -> None:
    """The tokens are equal for a seed; the weights are estimates of the same masses."""
    options: dict[str, Any] = {"particles": 5, "resample_below": 0.0, "seed": 3}
    exact = generator.sample_constrained("xy", choice=CHOICES, **options)
    asked = generator.sample_constrained("xy", choice=CHOICES, legal_mass="estimated", **options)
    checked = generator.sample_constrained("xy", checker=checker(), **options)
    assert [p.token_ids for p in exact.particles] == [p.token_ids for p in asked.particles]
    assert checked.particles == asked.particles
    assert asked.checker_calls > exact.checker_calls
    again = generator.sample_constrained("xy", constraint=checker(), **options)
    assert again == checked


def test_one_particle_is_in_words(generator: Generator) -> None:
    found = generator.sample_constrained("xy", choice=CHOICES, particles=1)
    assert found.exactness == "conditional (1 particle)"


def test_critics_read_texts(generator: Generator) -> None:
    seen: list[str] = []

    def critic(text: str) -> float:
        seen.append(text)
        return 0.0 if text.startswith("a") else -math.inf

    found = generator.sample_constrained("xy", choice=CHOICES, particles=12, critic=critic, seed=2)
    assert set(found.texts) <= {"ab", "abc"} and "a" in {text[0] for text in seen}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to sample under. Give a constraint, or a checker"),
        ({"regex": "a", "temperature": 0.0}, "temperature is 0: there is no distribution"),
        ({"regex": "a", "particles": 0}, "particles is 0. Give at least 1 particle"),
        ({"regex": "a", "resample_below": 2.0}, "resample_below is 2.0"),
        ({"regex": "a", "legal_mass": "guessed"}, "legal_mass is 'guessed'. Give estimated or"),
        ({"regex": "a", "critic": 3}, "critic is 3. Give a function of a text"),
        ({"checker": checker(), "legal_mass": "exact"}, "legal_mass is exact, which would ask"),
        ({"regex": "a", "checker": checker()}, "constraint and checker are given together"),
        ({"regex": "a", "tempreature": 1.0}, "unknown option 'tempreature'. Did you mean"),
    ],
)
def test_wrong_options_are_named(
    generator: Generator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as raised:
        generator.sample_constrained("xy", **options)
    assert message in str(raised.value)


def test_no_particle_left_is_an_error(generator: Generator) -> None:
    never = Checker(lambda text: False, lambda text: False, "never", 5)
    with pytest.raises(LogitsError, match="no particle is left after 0 tokens"):
        generator.sample_constrained("xy", checker=never, particles=3)


def test_generate_with_a_checker(generator: Generator, folders: Folders) -> None:
    """On the compiled runner; drafted and undrafted, greedy and sampled."""
    drafted = load(folders.target, draft=folders.draft, drafter="model", dtype="float32")
    for temperature in (0.0, 1.0):
        options: dict[str, Any] = {"temperature": temperature, "seed": 4, "max_new_tokens": 12}
        plain = generator.generate("xy", checker=checker(), **options)
        assert plain.text in CHOICES and plain.finish_reason == "stop"
        assert drafted.generate("xy", checker=checker(), **options).token_ids == plain.token_ids
    grammar = generator.generate("xy", choice=CHOICES, temperature=1.0, seed=4)
    assert grammar.text == plain.text


def test_errors_of_checkers_name_them(generator: Generator) -> None:
    found = generator.generate("xy", checker=checker(max_checks=1), max_new_tokens=8)
    assert found.finish_reason == "error"
    assert found.error is not None and "checker 'four words' refuses 1 tokens" in found.error
