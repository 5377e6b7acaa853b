"""Where the window of the model, or `context_length`, ends a text of `outrider.generate`."""

from typing import Any

import pytest

import outrider
from outrider.core.errors import ContextError, OptionError, OutriderWarning
from tests.engine.bridge.test_compat import BATCH, MASK, ONE, PAD, assistant, built, end_of, ours

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length"])
def test_a_text_that_the_window_ends_gives_one_warning(name: str) -> None:
    model = built("llama")
    window, width = model.config.max_position_embeddings, len(ONE[0])
    most = {"max_new_tokens": window - width, "max_length": window}[name]
    message = rf"the context window of {window} tokens ended the text: a prompt of 4 leaves "
    message += rf"{window - 4}, and {name} allows {window - 3}\. Lower {name}"
    with pytest.warns(OutriderWarning, match=message) as told:
        ids = outrider.generate(model, ONE, **{name: most + 1})
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert ids.shape[1] == window
    assert told[0].filename == __file__
    outrider.generate(model, ONE, **{name: most})  # warnings are errors


@pytest.mark.parametrize("drafted", [False, True])
def test_a_text_that_ends_before_the_window_gives_no_warning(drafted: bool) -> None:
    """By an end token, a stop string, a criterion; also with the last token of the window."""
    model, draft = built("llama"), assistant("llama") if drafted else None
    window = model.config.max_position_embeddings
    options: dict[str, Any] = {"max_new_tokens": window + 9, "assistant_model": draft}
    with pytest.warns(OutriderWarning, match="ended the text"):
        [full] = ours(model, ONE, **options)
    options["eos_token_id"] = end_of("llama", 5)
    assert len(ours(model, ONE, **options)[0]) <= 4 + 6
    options["eos_token_id"] = None
    late = lambda ids, scores: ids.shape[1] == window  # noqa: E731
    assert ours(model, ONE, **options, stopping_criteria=[late]) == [full]
    options["stopping_criteria"] = [lambda ids, scores: ids.shape[1] == 9]
    assert ours(model, ONE, **options) == [full[:9]]
    assert ours(model, ONE, max_new_tokens=window, context_length=20) == [full[:20]]  # asked for


def test_the_warning_counts_the_texts_of_a_batch() -> None:
    model = built("llama")
    window = model.config.max_position_embeddings
    options: dict[str, Any] = {"attention_mask": MASK, "pad_token_id": PAD}
    message = rf"ended 2 of 3 texts: a prompt of 5 leaves {window - 5}, and max_new_tokens allows"
    with pytest.warns(OutriderWarning, match=message) as told:
        ours(model, BATCH, max_new_tokens=window - 2, **options)
    assert len(told) == 1
    ours(model, BATCH, max_new_tokens=window - 5, **options)


@pytest.mark.parametrize("drafted", [False, True])
def test_context_length_limits_prompt_and_answer(drafted: bool) -> None:
    model, draft = built("llama"), assistant("llama") if drafted else None
    options: dict[str, Any] = {"attention_mask": MASK, "pad_token_id": PAD, "max_new_tokens": 12}
    full = ours(model, BATCH, **options)
    rows = ours(model, BATCH, **options, context_length=9, assistant_model=draft)
    sizes = [9 - read for read in MASK.sum(1).tolist()]  # the padding does not count
    for row, found, size in zip(full, rows, sizes, strict=True):
        assert found == row[: 5 + size] + [PAD] * (max(sizes) - size)


def test_context_length_and_other_limits() -> None:
    """The lowest limit holds."""
    model = built("llama")
    assert ours(model, ONE, context_length=9) == ours(model, ONE, max_new_tokens=5)
    assert ours(model, ONE, context_length=9, max_length=7) == ours(model, ONE, max_length=7)
    shortest = {"min_new_tokens": 8, "eos_token_id": end_of("llama", 2), "max_new_tokens": 9}
    assert len(ours(model, ONE, context_length=10, **shortest)[0]) == 10
    forced = {"forced_eos_token_id": 9, "max_new_tokens": 12}
    assert ours(model, ONE, context_length=9, **forced)[0][4 + 4 :] == [9]


def test_a_context_length_that_the_prompt_fills_is_refused() -> None:
    with pytest.raises(ContextError, match="the prompt has 4 tokens; the context is limited to 4"):
        ours(built("llama"), ONE, context_length=4)
    with pytest.raises(OptionError, match="context_length is 0"):
        ours(built("llama"), ONE, context_length=0)
