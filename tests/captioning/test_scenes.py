from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.captioning.metrics.attributes import all_facts, facts, read_caption
from outrider.captioning.scenes.phrases import Detail, Manner, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.captioning.scenes.things import SceneTruth, Thing

INDICES = st.integers(0, 10_000)


def truth(*things: Thing, relation: str = "", background: str = "white") -> SceneTruth:
    return SceneTruth(things=things, relation=relation, background=background)


RED_STAR = Thing(shape="star", color="red", size="small")
BLUE_SQUARE = Thing(shape="square", color="blue", size="large", texture="striped")
PAIR = truth(RED_STAR, BLUE_SQUARE, relation="left of", background="grey")


def test_a_scene_is_always_the_same_and_others_differ() -> None:
    first, again, other = Scenes(seed=4), Scenes(seed=4), Scenes(seed=5)
    assert first.truth(7) == again.truth(7)
    assert np.array_equal(np.asarray(first.image(7)), np.asarray(again.image(7)))
    assert first.truth(7) != other.truth(7)
    assert first.image(0).size == (64, 64)
    assert Scenes(seed=4, side=96).image(0).size == (96, 96)


@given(INDICES)
def test_things_differ_and_keep_apart(index: int) -> None:
    whole, places = Scenes(seed=1)._plan(index)
    shapes = [thing.shape for thing in whole.things]
    assert len(set(shapes)) == len(shapes) <= 3
    assert bool(whole.relation) == (len(shapes) > 1)
    for i, place in enumerate(places):
        assert place.x >= place.radius
        assert place.y + place.radius <= 1
        assert all(place.clears(other) for other in places[:i])
    if whole.relation:
        across, down = places[0].x - places[1].x, places[0].y - places[1].y
        seen = {"left of": -across, "right of": across, "above": -down, "below": down}
        assert max(seen, key=lambda name: seen[name]) == whole.relation


def test_each_thing_is_drawn_in_its_colour() -> None:
    """A red scene is redder than the same one in blue: the words are about the pixels."""
    scenes = Scenes(seed=2, most=1)
    by_color: dict[str, list[np.ndarray]] = {}
    for i in range(200):
        [thing] = scenes.truth(i).things
        image = np.asarray(scenes.image(i)).astype(float)
        by_color.setdefault(thing.color, []).append(image.reshape(-1, 3).mean(axis=0))
    red, blue = (np.mean(by_color[c], axis=0) for c in ("red", "blue"))
    assert red[0] - red[2] > blue[0] - blue[2]


@given(INDICES)
def test_exact_sentences_say_everything_and_all_of_them_are_true(index: int) -> None:
    whole = Scenes(seed=3).truth(index)
    for detail in Detail:
        found = facts(caption(whole, detail, Random(index)), whole)
        assert found.hallucination_rate == 0
        if detail is Detail.EXACT:
            assert found.recall == 1
        if detail is Detail.VAGUE:
            assert found.said <= len(whole.things)


def test_what_a_caption_says() -> None:
    said = read_caption("A small red star to the left of a striped square on a grey background.")
    assert said.things == (
        {"size": "small", "color": "red", "shape": "star"},
        {"texture": "striped", "shape": "square"},
    )
    assert (said.relation, said.background) == ("left of", "grey")
    assert read_caption("two shapes.").things == ()
    assert read_caption("").things == ()
    assert read_caption("a red thing.").things == ({"color": "red"},)


@pytest.mark.parametrize(
    ("text", "said", "true"),
    [
        ("a small red star to the left of a large striped blue square on a grey background.", 9, 9),
        ("a large striped blue square to the right of a small red star.", 8, 8),
        ("a large striped blue square to the left of a small red star.", 8, 7),
        ("a blue star and a red square.", 4, 2),
        ("a red star on a white background.", 3, 2),
        ("a dotted red star.", 3, 2),
        ("a plain red star.", 2, 2),
        ("a plain blue square.", 3, 2),
        ("a plain shape and a striped shape.", 1, 1),
        ("a plain thing, a plain thing and a plain thing.", 2, 0),
        ("a star, a square and a green circle.", 4, 2),
        ("two shapes.", 0, 0),
    ],
)
def test_facts_are_matched_with_what_is_there(text: str, said: int, true: int) -> None:
    found = facts(text, PAIR)
    assert (found.there, found.said, found.true) == (9, said, true)


def test_counts_add_up_by_kind() -> None:
    found = all_facts(["a red star.", "a blue square."], [PAIR, PAIR])
    assert found.there == 18
    assert found.true == sum(found.true_of.values()) == 4
    assert found.recall_of("color") == 0.5
    assert found.recall_of("relation") == 0
    assert found.recall_of("nothing") == 0


def test_many_things_are_said_of_a_scene_of_few() -> None:
    found = facts("a red star, a star, a star, a star, a star and a star.", PAIR)
    assert found.said == 7
    assert 0 < found.true <= 3


def test_a_manner_is_kept_to() -> None:
    manner, random = Manner(vague=0.0, partial=0.0, exact=1.0), Random(1)
    assert {manner.detail(random) for _ in range(20)} == {Detail.EXACT}
