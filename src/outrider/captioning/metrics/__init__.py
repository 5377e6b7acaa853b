"""Metrics of captions; `score_captions` computes all that apply.

Against the image: CLIPScore, retrieval, words that disagree (CLIP4DM) and the two scores that are
both called F-CLIPScore: `WordScores.f_score` (Nam et al.) and `phrase_score` (Oh and Hwang).
Against human captions: BLEU and CIDEr-D. Against known scenes: recall of facts and the
hallucination rate. Without other data: length and diversity, which are needed to interpret all
other metrics.
"""

from outrider.captioning.metrics.attributes import Facts, all_facts, facts
from outrider.captioning.metrics.clip import CaptionEmbeddings, ClipScorer, clip_score
from outrider.captioning.metrics.diversity import Diversity, distinct
from outrider.captioning.metrics.intervals import Mean
from outrider.captioning.metrics.misalignment import (
    WordScores,
    calibrate,
    phrase_score,
    word_scores,
)
from outrider.captioning.metrics.reference_scores import bleu, cider, sentence_bleu
from outrider.captioning.metrics.report import CaptionReport, ClipReport, FactReport, score_captions
from outrider.captioning.metrics.retrieval import Retrieval, retrieval_rate

__all__ = [
    "CaptionEmbeddings",
    "CaptionReport",
    "ClipReport",
    "ClipScorer",
    "Diversity",
    "FactReport",
    "Facts",
    "Mean",
    "Retrieval",
    "WordScores",
    "all_facts",
    "bleu",
    "calibrate",
    "cider",
    "clip_score",
    "distinct",
    "facts",
    "phrase_score",
    "retrieval_rate",
    "score_captions",
    "sentence_bleu",
    "word_scores",
]
