"""Text as it comes: the same as all at once, with the tier that wrote each piece."""

import threading
from typing import Any

import pytest

from outrider.core.errors import OptionError
from outrider.engine.generator import Generator
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy
from tests.engine.conftest import NOT_LETTERS, Load
from tests.matrix import matrix

OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.9, "seed": 5}
SETTINGS: dict[str, dict[str, Any]] = {
    "bytes": {},
    "letters": {"banned_tokens": NOT_LETTERS},
    "stop": {"banned_tokens": NOT_LETTERS, "stop": ["e", "st"]},
    "emoji": {"forced_tokens": dict(enumerate("aé😀é😀z".encode()))},
    "broken": {"forced_tokens": dict(enumerate(b"ab\xf0\x9f")), "max_new_tokens": 4},
}


@pytest.mark.parametrize(("settings", "tiers"), matrix(SETTINGS, [1, 3]))
def test_the_pieces_are_the_text(loaded: Load, settings: str, tiers: int) -> None:
    options = OPTIONS | SETTINGS[settings]
    stream = loaded(tiers).stream("once", **options)
    text = "".join(stream)
    whole = loaded(tiers).generate("once", **options)
    assert text == stream.result.text == whole.text
    assert stream.result.token_ids == whole.token_ids
    assert stream.result.sources == whole.sources


@pytest.mark.parametrize("settings", SETTINGS)
def test_spans_name_the_writer_of_each_character(loaded: Load, settings: str) -> None:
    """Streamed or not, a character belongs to the token that ends it."""
    stream = loaded().stream("once", **OPTIONS | SETTINGS[settings])
    streamed = [(c, source) for piece, source in stream.spans() for c in piece]
    result = stream.result
    assert streamed == [(c, source) for piece, source in result.spans() for c in piece]
    for i, (_, source) in enumerate(streamed):
        writer = next(n for n, end in enumerate(result.ends) if end > i)
        assert source == result.sources[writer]


def test_an_emoji_comes_whole(loaded: Load) -> None:
    pieces = [*loaded(1).stream("a", **OPTIONS | SETTINGS["emoji"])]
    assert pieces[:4] == ["a", "é", "😀", "é"]


def test_what_is_cut_is_never_shown(loaded: Load) -> None:
    options = OPTIONS | SETTINGS["letters"]
    whole = loaded().generate("once", **options).text
    stop = whole[7:10]
    at = whole.index(stop)
    stream, shown = loaded().stream("once", stop=stop, **options), ""
    for piece in stream:
        shown += piece
        assert len(shown) <= at
    assert shown == whole[:at] and stream.result.finish_reason == "stop"


def test_cancelled_from_inside_the_loop(loaded: Load) -> None:
    stream, shown = loaded().stream("once", **OPTIONS), ""
    for piece in stream:
        shown += piece
        stream.cancel()
    result = stream.result
    assert result.finish_reason == "cancelled" and 0 < result.completion_tokens < 20
    assert shown == result.text
    whole = loaded().generate("once", **OPTIONS)
    assert whole.token_ids[: result.completion_tokens] == result.token_ids


def test_cancelled_before_it_began(loaded: Load) -> None:
    stream = loaded().stream("once", **OPTIONS)
    stream.cancel()
    assert [*stream] == []
    assert (stream.result.finish_reason, stream.result.text) == ("cancelled", "")


def test_cancelled_from_another_thread(loaded: Load) -> None:
    stream = loaded().stream("once", **OPTIONS | {"max_new_tokens": 200})
    for _ in stream:
        thread = threading.Thread(target=stream.cancel)
        thread.start()
        thread.join()
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.completion_tokens < 200


def test_a_stream_left_early_does_no_harm(loaded: Load) -> None:
    generator = loaded()
    expected = loaded(1).generate("once", **OPTIONS).token_ids
    stream = generator.stream("once", **OPTIONS)
    next(iter(stream))
    with pytest.raises(OptionError, match="not at its end"):
        _ = stream.result
    assert generator.generate("once", **OPTIONS).token_ids == expected
    assert (
        "".join(generator.stream("once", **OPTIONS)) == loaded(1).generate("once", **OPTIONS).text
    )


def test_a_stream_needs_a_tokenizer_and_known_options(loaded: Load) -> None:
    bare = Generator(Strategy(target=TabularModel.random()))
    with pytest.raises(OptionError, match="streaming text needs a tokenizer"):
        bare.stream([1])
    with pytest.raises(OptionError, match="unknown option 'max_tokens'"):
        loaded().stream("once", max_tokens=3)
