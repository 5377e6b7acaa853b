"""Under every policy, drafted texts are those of undrafted decoding, whatever drafts."""

from functools import cache
from typing import Any

import pytest

from outrider.strategy.catalogue import names
from tests.engine.caching.policies import GATED, PROMPT, WORDS, generator, model, policy

WRITE: dict[str, Any] = {"max_new_tokens": 32, "seed": 3, "temperature": 0.5}
FORMATS = (("float32", "float32"), ("int8", "bfloat16"), ("int8", "int8"))

DRAFTERS: dict[str, dict[str, Any]] = {
    "chains of copies": {"drafter": "lookup(min_ngram=1)", "num_speculative_tokens": 4},
    "trees": {"drafter": "recycling", "num_draft_nodes": 12},
    "some layers": {"drafter": "skip", "num_speculative_tokens": 3},
    "a draft model": {"drafter": "model", "num_speculative_tokens": 4},
    "trees of a draft model": {"drafter": "tree(eagle2)", "num_draft_nodes": 8},
}
"""Sizes are fixed, so that every round drafts."""


def test_every_policy_is_here() -> None:
    assert {*WORDS, *GATED} == {*names("kv-policy")}


@cache
def alone(name: str, kinds: tuple[str, str]) -> tuple[int, ...]:
    own = generator(model("target", *kinds), kv_policy=policy(name), mode="none")
    return own.generate(PROMPT, **WRITE).token_ids


@cache
def whole(kinds: tuple[str, str]) -> tuple[int, ...]:
    own = generator(model("target", *kinds), mode="none")
    return own.generate(PROMPT, **WRITE).token_ids


CASES = [
    ("streaming", "trees", FORMATS[0]),
    ("h2o", "chains of copies", FORMATS[0]),
    ("h2o", "trees of a draft model", FORMATS[0]),
    ("snapkv", "trees", FORMATS[0]),
    ("duo", "a draft model", FORMATS[0]),
    ("rlkv", "trees", FORMATS[0]),
    ("infllm", "trees", FORMATS[0]),
    ("actqkv", "some layers", FORMATS[0]),
    ("infllm", "trees", FORMATS[1]),
    ("h2o", "trees", FORMATS[2]),
    ("streaming", "trees", FORMATS[2]),
]
"""Every policy drafts, and so does every drafter; all of them on small models are tested beside the
caches (`tests/models/caches/eviction`)."""


@pytest.mark.parametrize(("name", "how", "kinds"), CASES, ids=str)
def test_drafts_change_nothing(name: str, how: str, kinds: tuple[str, str]) -> None:
    options = dict(DRAFTERS[how])
    if options["drafter"] in ("model", "tree(eagle2)"):
        options["draft"] = model("draft")
    drafting = generator(model("target", *kinds), kv_policy=policy(name), guard="off", **options)
    result = drafting.generate(PROMPT, **WRITE)
    assert result.token_ids == alone(name, kinds)
    assert result.speculation.target.drafted > 16
    assert result.cache is not None and result.cache["policy"] == str(policy(name))


@pytest.mark.parametrize("name", names("kv-policy"))
def test_a_small_budget_changes_the_text_of_a_target(name: str) -> None:
    assert alone(name, FORMATS[0]) != whole(FORMATS[0])


MARKED = [
    pytest.param("streaming", marks=pytest.mark.method("streaming")),
    pytest.param("h2o", marks=pytest.mark.method("h2o")),
    pytest.param("snapkv", marks=pytest.mark.method("snapkv")),
    pytest.param("duo", marks=pytest.mark.method("duo")),
    pytest.param("rlkv", marks=pytest.mark.method("rlkv")),
    pytest.param("infllm", marks=pytest.mark.method("infllm")),
    pytest.param("actqkv", marks=pytest.mark.method("actqkv")),
]


@pytest.mark.parametrize("name", MARKED)
def test_a_policy_of_the_draft_model_changes_no_text(name: str) -> None:
    own = generator(
        model(),
        draft=model("draft"),
        drafter="model",
        num_speculative_tokens=4,
        draft_kv_policy=policy(name, "draft"),
        guard="off",
    )
    result = own.generate(PROMPT, **WRITE)
    assert result.token_ids == whole(FORMATS[0])
    assert result.speculation.exactness == "identical"
    assert result.cache is not None and {*result.cache} == {"draft_policy", "draft_bytes"}
    assert result.cache["draft_policy"] == str(policy(name, "draft"))
    assert result.speculation.target.accepted > 0
