"""Words, length, variety, intervals, retrieval, BLEU and CIDEr-D."""

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.captioning.metrics import (
    Diversity,
    Mean,
    bleu,
    cider,
    distinct,
    retrieval_rate,
    sentence_bleu,
)
from outrider.captioning.metrics.words import check_captions, grams, word_spans, words
from outrider.core.errors import MissingExtraError, OptionError

CAPTIONS = [
    "A small red circle above a blue square.",
    "a large green star",
    "Two dogs run, on the green grass!",
    "a man rides a bike down the street street street",
    "a cat",
]
REFERENCES = [
    [
        "a red circle above a blue square",
        "a small red circle is above a large blue square on white",
    ],
    ["a large green star on a brown background"],
    ["two dogs are running on grass", "dogs run on the green grass", "two brown dogs run"],
    ["a man rides a bike down the street", "a man on a bike in the street"],
    ["a cat sits on a mat", "the cat"],
]


def test_words_keep_hyphens_and_apostrophes_inside_and_drop_the_rest() -> None:
    assert words("It's a T-shirt -- 'red', 2_3!") == ["it's", "a", "t-shirt", "red", "2", "3"]
    assert words("?!…") == []
    text = "Ein Mädchen, 2 Hüte"
    assert [text[a:b] for a, b in word_spans(text)] == ["Ein", "Mädchen", "2", "Hüte"]


def test_grams_are_neighbours_in_order() -> None:
    assert grams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert grams(["a"], 2) == []


@pytest.mark.parametrize(
    ("captions", "others", "problem"),
    [
        ([], {}, "there are no captions"),
        ("a cat", {}, "captions is a text"),
        (["a", " .. "], {}, "caption 1 has no words"),
        (["a", None], {}, "caption 1 is a NoneType"),
        (["a"], {"images": [1, 2]}, "1 captions, but 2 images"),
    ],
)
def test_what_can_not_be_scored_is_named(captions, others, problem) -> None:
    with pytest.raises(OptionError, match=problem):
        check_captions(captions, **others)


def test_diversity_of_known_captions() -> None:
    found = Diversity.of(["a red cat", "A red cat.", "a dog"])
    assert found.mean_words == pytest.approx(8 / 3)
    assert found.vocabulary == 4
    assert found.distinct_1 == pytest.approx(4 / 8)
    assert found.distinct_2 == pytest.approx(3 / 5)
    assert found.distinct_captions == pytest.approx(2 / 3)
    assert found.to_dict()["vocabulary"] == 4


def test_single_words_have_no_pairs() -> None:
    assert Diversity.of(["cat", "dog"]).distinct_2 == 0.0
    assert distinct([], 1) == 0.0


def test_mean_and_interval() -> None:
    found = Mean.of([0.0, 1.0] * 50)
    assert found.mean == 0.5
    assert 0.38 < found.low < 0.43 < 0.57 < found.high < 0.62
    assert found == Mean.of([0.0, 1.0] * 50)
    assert Mean.of([3.0]) == Mean(mean=3.0, low=3.0, high=3.0, count=1)


def test_mean_of_shares_weighs_by_the_whole() -> None:
    found = Mean.of_shares([1, 0], [1, 3])
    assert found is not None
    assert found.mean == 0.25
    assert (found.low, found.high) == (0.0, 1.0)
    assert Mean.of_shares([0, 0], [0, 0]) is None


def test_gains_of_shares_are_paired() -> None:
    """What differs from image to image, alike before and after, does not widen the interval."""
    wholes = [4.0] * 50
    before, after = [float(i % 4) for i in range(50)], [float(i % 4) + 1 for i in range(50)]
    found = Mean.of_share_gain((before, wholes), (after, wholes))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert Mean.of_share_gain(([1.0], [1.0]), ([0.0], [0.0])) is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_means_of_nothing_or_nan_are_refused(values) -> None:
    with pytest.raises(OptionError):
        Mean.of(values)


# -- retrieval ---------------------------------------------------------------------------------


def test_own_images_are_found_and_shuffled_ones_are_not() -> None:
    vectors = torch.eye(8)
    assert retrieval_rate(vectors, vectors * 3, 4).rate == 1.0
    assert retrieval_rate(vectors, vectors.roll(1, 0), 8).rate == 0.0


def test_embeddings_that_say_nothing_reach_chance() -> None:
    found = retrieval_rate(torch.ones(12, 5), torch.ones(12, 5) * 0.1, 4)
    assert (found.rate, found.chance, found.pairs) == (0.25, 0.25, 12)
    noise = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
    other = torch.randn(4000, 8, generator=torch.Generator().manual_seed(2))
    found = retrieval_rate(noise, other, 16)
    assert found.low < 1 / 16 < found.high


def test_ties_are_split() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert retrieval_rate(images, images, 3).rate == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_a_batch_that_is_not_full_is_left_out() -> None:
    vectors = torch.eye(7)
    assert retrieval_rate(vectors, vectors, 3).pairs == 6


@pytest.mark.parametrize(
    ("texts", "images", "batch", "problem"),
    [
        (torch.ones(4, 2), torch.ones(3, 2), 2, "image embeddings"),
        (torch.ones(4, 2), torch.ones(4, 2), 1, "batch is"),
        (torch.ones(4, 2), torch.ones(4, 2), 5, "do not fill"),
        (torch.ones(4, 2), torch.tensor([[1.0, math.nan]] * 4), 2, "image embedding 0"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(texts, images, batch, problem) -> None:
    with pytest.raises(OptionError, match=problem):
        retrieval_rate(texts, images, batch)


# -- BLEU --------------------------------------------------------------------------------------


def test_identical_captions_have_bleu_one() -> None:
    captions = ["a small red circle above a square", "two dogs run on grass"]
    assert bleu(captions, [[c] for c in captions]) == pytest.approx((1, 1, 1, 1))
    assert sentence_bleu(captions, [[c] for c in captions]) == pytest.approx([1, 1])
    assert sentence_bleu(["a cat"], [["a cat"]]) == pytest.approx([1])


def test_bleu_by_hand() -> None:
    # Five words, four of them and two of four pairs in a reference of the same length.
    found = bleu(["a red cat sits here"], [["a red dog sits here"]])
    assert found[0] == pytest.approx(4 / 5)
    assert found[1] == pytest.approx(math.sqrt(4 / 5 * 2 / 4))
    # A word more in the reference: the penalty for brevity.
    shorter = bleu(["a red cat sits here"], [["a red dog sits here now"]])
    assert shorter[0] == pytest.approx(4 / 5 * math.exp(1 - 6 / 5))


def test_bleu_takes_unequal_numbers_of_references_and_any_case() -> None:
    found = bleu(CAPTIONS, REFERENCES)
    assert list(found) == sorted(found, reverse=True)
    assert bleu([c.upper() for c in CAPTIONS], REFERENCES) == pytest.approx(found)
    assert bleu(CAPTIONS, [own[::-1] for own in REFERENCES]) == pytest.approx(found)


def test_missing_sacrebleu_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"outrider\[vision\]"):
        bleu(["a"], [["a"]])


# -- CIDEr-D -----------------------------------------------------------------------------------


def test_cider_equals_the_scorer_of_the_coco_tools() -> None:
    """Figures of `CiderScorer` of pycocoevalcap 1.2 over the same words."""
    expected = [
        5.652737248065995,
        4.858708608313379,
        4.342892383096897,
        4.64727952286411,
        2.2613542275700897,
    ]
    assert cider(CAPTIONS, REFERENCES) == pytest.approx(expected, rel=1e-12)


def test_cider_by_hand() -> None:
    # Two images that share no word. Of "a b" against "a c": one of two words of equal weight, no
    # pair; runs of three and four are in neither. (1/2 + 0 + 0 + 0) / 4 * 10.
    found = cider(["a b", "x y z w"], [["a c"], ["x y z w"]])
    assert found == pytest.approx([1.25, 10.0])
    # One word longer: times exp(-1 / 72), and the cosine of the words is 2 / (sqrt 2 * sqrt 3),
    # that of the pairs 1 / (1 * sqrt 2).
    [first, _] = cider(["a b c", "x"], [["a b"], ["x"]])
    inner = (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4
    assert first == pytest.approx(10 * inner * math.exp(-1 / 72))


def test_repeating_a_word_does_not_pay() -> None:
    others = ["x y z w"], [["x y z w"]]
    plain = cider(["a b c d", *others[0]], [["a b c d"], *others[1]])[0]
    again = cider(["a b c d d", *others[0]], [["a b c d"], *others[1]])[0]
    assert plain == pytest.approx(10.0)
    assert again < plain


def test_words_of_all_images_weigh_nothing() -> None:
    assert cider(["a", "a"], [["a"], ["a"]]) == [0.0, 0.0]


@given(st.permutations(range(5)))
def test_cider_follows_the_order_of_captions(order: list[int]) -> None:
    found = cider([CAPTIONS[i] for i in order], [REFERENCES[i] for i in order])
    straight = cider(CAPTIONS, REFERENCES)
    assert found == pytest.approx([straight[i] for i in order])


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), min_size=2))
def test_cider_stays_between_zero_and_ten(texts: list[list[str]]) -> None:
    captions = [" ".join(text) for text in texts]
    found = cider(captions, [[c] for c in captions[1:] + captions[:1]])
    assert all(0.0 <= score <= 10.0 + 1e-9 for score in found)


@pytest.mark.parametrize(
    ("captions", "references", "problem"),
    [
        (["a cat"], [["a cat"]], "several images"),
        (["a cat", "a dog"], [["a cat"], []], "caption 1 has no references"),
        (["a cat", "a dog"], [["a cat"]], "2 captions, but 1 references"),
        (["a cat", "a dog"], ["a cat", "a dog"], "are a text"),
        (["a cat", "a dog"], [["a cat"], ["!"]], "references of caption 1: caption 0 has no words"),
    ],
)
def test_references_that_can_not_be_used_are_named(captions, references, problem) -> None:
    with pytest.raises(OptionError, match=problem):
        cider(captions, references)
