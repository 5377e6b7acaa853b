"""Free and constrained requests at once: texts are those of single runs, and fit their grammars."""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import outrider
from outrider.engine.generator import Generator
from outrider.server.settings import ServerSettings
from tests.engine.serving.setups import until
from tests.server.constraints.cases import HOSTILE
from tests.server.setups import COMPLETE, Running, running
from tests.server.test_metrics import values

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LIST = 'start: item (", " item)~0..3 "."\nitem: "tea" | "milk" | /[a-c]{1,3}/\n'
VALID = jsonschema_rs.validator_for(SCHEMA)
Kind = tuple[dict[str, Any], dict[str, Any], Callable[[str], object]]
ANSWERS = ["yes", "no", "maybe"]
KINDS: Sequence[Kind] = (
    ({}, {}, lambda text: True),
    ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}, lambda t: VALID.is_valid(json.loads(t))),
    (
        {"guided_regex": "[0-9]{2,6}(-[a-z]+)?!"},
        {"regex": "[0-9]{2,6}(-[a-z]+)?!"},
        lambda text: re.fullmatch("[0-9]{2,6}(-[a-z]+)?!", text),
    ),
    ({}, {}, lambda text: True),
    (
        {"guided_grammar": LIST},
        {"grammar": LIST},
        lambda text: re.fullmatch(r"(tea|milk|[a-c]{1,3})(, (tea|milk|[a-c]{1,3})){0,3}\.", text),
    ),
    ({"guided_choice": ANSWERS}, {"choice": ANSWERS}, ANSWERS.__contains__),
)
CHECKED = "outrider:constraint_texts_checked_total"
PROMPTS = ("Once upon a time", "The dog said", "A list:")


def check_mixed(generator: Generator, served: Running, count: int, clients: Sequence[int]) -> int:
    """Send requests of all kinds with so many clients at once; return how many texts ended."""
    asked: list[tuple[dict[str, Any], Kind]] = []
    expected: list[str] = []
    for number in range(count):
        kind, prompt = KINDS[number % len(KINDS)], PROMPTS[number % len(PROMPTS)]
        own = {"seed": number, "temperature": (0.0, 0.8, 1.3)[number % 3]}
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 48, **own, **kind[0]}
        asked.append((body, kind))
        expected.append(generator.generate(prompt, max_new_tokens=48, **own, **kind[1]).text)
    ended, schemas, before = 0, 0, values(served)[CHECKED]
    for most in clients:
        with ThreadPoolExecutor(most) as pool:
            answers = list(pool.map(lambda one: served.post(COMPLETE, one[0]), asked))
        for answer, (body, kind), text in zip(answers, asked, expected, strict=True):
            assert answer.status == 200, (body, answer.body)
            [choice] = answer.json["choices"]
            assert choice["text"] == text, body
            if choice["finish_reason"] == "stop":
                ended += 1
                schemas += "guided_json" in body
                assert kind[2](text), (body, text)
    assert served.idle()
    assert until(lambda: values(served)[CHECKED] == before + schemas)
    assert values(served)["outrider:constraint_violations_total"] == 0
    return ended


def test_every_text_is_that_of_its_single_run(served: Running, generator: Generator) -> None:
    assert check_mixed(generator, served, 12, (1, 5, 16)) > 0


@pytest.mark.slow
def test_a_real_model_at_1_to_16_clients(smollm2: Path) -> None:
    generator = outrider.load(str(smollm2), threads=2)
    with running(generator) as served:
        assert check_mixed(generator, served, 24, (1, 4, 16)) > 24


@pytest.mark.slow
def test_hostile_grammars_change_nothing_for_others(generator: Generator) -> None:
    """Each of them is one refusal; meanwhile other requests have the texts of a quiet run."""
    settings = ServerSettings(model_names=("tiny",), grammar_seconds=1)
    with running(generator, settings) as served:
        base = {"model": "tiny", "max_tokens": 32}
        ordinary = [
            base | {"prompt": prompt, "seed": seed} | KINDS[seed % len(KINDS)][0]
            for seed, prompt in enumerate(PROMPTS * 2)
        ]
        quiet = [served.post(COMPLETE, body).json["choices"][0]["text"] for body in ordinary]
        names, done = list(HOSTILE), False

        def others() -> int:
            rounds = 0
            while not done:
                for body, text in zip(ordinary, quiet, strict=True):
                    answer = served.post(COMPLETE, body)
                    assert answer.status == 200, answer.body
                    assert answer.json["choices"][0]["text"] == text, body
                rounds += 1
            return rounds

        with ThreadPoolExecutor(4) as pool:
            running_on = [pool.submit(others) for _ in range(2)]
            refusals = {
                name: pool.submit(
                    served.post,
                    COMPLETE,
                    {"model": "tiny", "prompt": "Once", "max_tokens": 8, **HOSTILE[name]},
                )
                for name in names
            }
            try:
                found = {name: one.result(900) for name, one in refusals.items()}
            finally:
                done = True
            assert all(one.result(120) > 0 for one in running_on)
        for name, answer in found.items():
            assert answer.status == 400, (name, answer.status, answer.body[:300])
            assert answer.error["param"] in HOSTILE[name], (name, answer.error)
        assert len(found) >= 50 and served.idle()
        assert not served.context.life.dead and len(served.context.admission.processes) <= 2
        counted = values(served)
        assert counted["outrider:constraint_violations_total"] == 0
        assert counted["outrider:constraint_errors_total"] == 0
