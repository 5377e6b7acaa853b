"""The same id must be the same text to every tier; padding does no harm."""

from collections.abc import Sequence
from time import perf_counter

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Core
from transformers import PreTrainedTokenizerFast

from outrider.core.errors import VocabularyError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import check_vocabularies, first_difference
from outrider.models.tabular import TabularModel

WORDS = ["a", "b", "Ġa", "Ġb", "Ċ"]


def byte_level(words: Sequence[str], special: Sequence[str] = ("<end>",)) -> Tokenizer:
    core = Core(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in special])
    return Tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[0] if special else None)
    )


def metaspace(words: Sequence[str]) -> Tokenizer:
    core = Core(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    core.add_special_tokens([AddedToken("<end>", special=True)])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>"))


def model(width: int) -> TabularModel:
    return TabularModel.random(vocab_size=width, order=1)


def check(ours: Tokenizer | None, theirs: Tokenizer | None, widths: tuple[int, int]) -> int:
    return check_vocabularies(ours, theirs, model(widths[0]), model(widths[1]), "draft")


@pytest.mark.parametrize("widths", [(6, 6), (8, 6), (6, 8), (16, 8)])
def test_equal_vocabularies_with_padding_to_any_width(widths: tuple[int, int]) -> None:
    assert check(byte_level(WORDS), byte_level(WORDS), widths) == min(widths)


def test_the_first_id_that_differs_is_named_with_both_texts() -> None:
    other = byte_level(["a", "b", "Ġb", "Ġa", "Ċ"])
    with pytest.raises(VocabularyError, match=r"draft.*token 2 is ' a'.*and ' b' for the draft"):
        check(byte_level(WORDS), other, (6, 6))


def test_an_entry_that_the_target_lacks_is_no_padding() -> None:
    with pytest.raises(VocabularyError, match=r"token 6 is nothing.*<pad>"):
        check(byte_level(WORDS), byte_level(WORDS, ("<end>", "<pad>")), (8, 8))


def test_the_target_may_have_further_marks() -> None:
    """Of images, say: the draft model never writes them."""
    target = byte_level(WORDS, ("<end>", "<image>", "<video>"))
    assert check(target, byte_level(WORDS), (8, 8)) == 6
    assert check(target, byte_level(WORDS), (8, 6)) == 6


def test_further_words_are_no_marks() -> None:
    ours = byte_level([*WORDS, "ab"], ("<end>",))
    theirs = byte_level([*WORDS[:4], "Ċ"], ("<end>",))
    with pytest.raises(VocabularyError, match="token 5"):
        check(ours, theirs, (8, 8))
    longer, shorter = byte_level([*WORDS, "ab"], ()), byte_level(WORDS, ())
    with pytest.raises(VocabularyError, match=r"token 5 is 'ab' .* and nothing"):
        check(longer, shorter, (8, 8))


def test_special_tokens_must_agree() -> None:
    with pytest.raises(VocabularyError, match=r"token 5 is '<end>'.*'<stop>'"):
        check(byte_level(WORDS), byte_level(WORDS, ("<stop>",)), (6, 6))


def test_other_spellings_of_the_same_text_agree() -> None:
    theirs = metaspace(["a", "b", "▁a", "▁b", "<0x0A>"])
    assert byte_level(WORDS).table != theirs.table
    assert first_difference(byte_level(WORDS), theirs) is None


def test_a_leading_space_is_not_overlooked() -> None:
    """`▁a` alone decodes to `a`; the two are still different tokens."""
    swapped = metaspace(["▁a", "b", "a", "▁b", "<0x0A>"])
    assert first_difference(byte_level(WORDS), swapped) == 0


def test_bytes_of_broken_characters_are_not_taken_for_each_other() -> None:
    """0xE4 and 0xE5 both decode to the replacement character."""
    ours, theirs = byte_level(["a", "ä"]), metaspace(["a", "<0xE5>"])
    assert ours.decode([1]) == theirs.decode([1]) == "\ufffd"
    assert first_difference(ours, theirs) == 1


@pytest.mark.parametrize("missing", ["target", "draft", "both"])
def test_without_both_tokenizers_the_widths_must_be_equal(missing: str) -> None:
    ours = None if missing in ("target", "both") else byte_level(WORDS)
    theirs = None if missing in ("draft", "both") else byte_level(WORDS)
    assert check(ours, theirs, (6, 6)) == 6
    with pytest.raises(VocabularyError, match="6 logits, the draft model 8"):
        check(ours, theirs, (6, 8))


@pytest.mark.parametrize(("widths", "fits"), [((6, 8), True), ((4, 8), False), ((4, 4), True)])
def test_one_tokenizer_for_both_must_fit_where_the_widths_differ(
    widths: tuple[int, int], fits: bool
) -> None:
    codec = byte_level(WORDS)
    if fits:
        assert check(codec, codec, widths) == min(widths)
    else:
        with pytest.raises(VocabularyError, match=r"4 logits, the draft model 8.* 6 entries"):
            check(codec, codec, widths)


def test_large_vocabularies_are_compared_quickly() -> None:
    words = [f"w{i}" for i in range(150_000)]
    ours, theirs = byte_level(words), byte_level([*words[:-1], "other"])
    assert len(ours.table) == len(theirs.table) == 150_001  # made here, not timed
    begun = perf_counter()
    assert first_difference(ours, theirs) == 149_999
    assert perf_counter() - begun < 2.0
