"""All figures of a set of captions in one report."""

import json

import pytest

from outrider.captioning.metrics import (
    score_captions,
)
from outrider.captioning.scenes.things import SceneTruth, Thing
from outrider.core.errors import OptionError
from tests.captioning.tiny_clip import noisy

# -- the report --------------------------------------------------------------------------------


def truths() -> list[SceneTruth]:
    red = Thing(shape="circle", color="red", size="small")
    return [SceneTruth(things=(red,), background="white")] * 2


def test_a_report_holds_all_that_is_given(tiny, images) -> None:
    captions = ["a small red circle", "a blue circle on a white background"]
    told: list[tuple[str, int, int]] = []
    report = score_captions(
        captions,
        images=images[:2],
        scorer=tiny,
        references=[["a red circle"], ["a small circle", "a blue one"]],
        truths=truths(),
        blame=True,
        threshold=-1e-5,
        batch=2,
        progress=lambda *done: told.append(done),
    )
    assert {what for what, _, _ in told} == {"images", "captions", "words"}
    assert report.facts is not None
    assert report.facts.recall is not None
    assert report.facts.recall.mean == pytest.approx(5 / 8)
    assert report.facts.hallucination_rate is not None
    assert report.facts.hallucination_rate.mean == pytest.approx(1 / 6)
    plain_data = json.loads(json.dumps(report.to_dict(each=True)))
    assert plain_data["captions"] == 2
    assert plain_data["diversity"]["mean_words"] == 5.5
    assert plain_data["clip"]["scorer"] == "tiny"
    assert plain_data["clip"]["retrieval"]["chance"] == 0.5
    assert plain_data["clip"]["blamed_words"]["count"] == 2
    assert len(plain_data["bleu"]) == 4
    assert plain_data["cider"]["count"] == 2
    assert [len(plain_data["each"][name]) for name in ("clip_score", "cider", "words")] == [2] * 3
    assert plain_data["each"]["facts"][0] == {"there": 4, "said": 3, "true": 3}
    assert plain_data["each"]["words"][0]["words"] == ["a", "small", "red", "circle"]
    assert "each" not in report.to_dict()


def test_a_report_without_anything_is_length_and_variety() -> None:
    report = score_captions(["a cat"])
    assert report.diversity.mean_words == 2
    assert report.clip is report.bleu is report.cider is report.facts is None
    assert score_captions(["a cat"], references=[["a cat"]]).cider is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"references": [["a"], ["b"]]}, "1 captions, but 2 references"),
        ({"truths": []}, "1 captions, but 0 truths"),
        ({"references": [[]]}, "has no references"),
        ({"blame": True}, "none is given"),
        ({"scorer": "tiny"}, "a scorer is given, but no images"),
        ({"scorer": "tiny", "images": [noisy(0)], "threshold": -1.0}, "blame=True"),
    ],
)
def test_reports_of_parts_that_do_not_fit_are_refused(tiny, given, problem) -> None:
    given = given | ({"scorer": tiny} if "scorer" in given else {})
    with pytest.raises(OptionError, match=problem):
        score_captions(["a cat"], **given)
