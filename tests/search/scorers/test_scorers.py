"""Scorers: rules, classifiers, functions by name, and errors."""

from pathlib import Path

import pytest
import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.search import FunctionScorer
from outrider.search.samples.best_of_n import BestOfN
from outrider.search.scorers.classifier import Classifier
from outrider.search.scorers.named import make_scorer
from outrider.search.scorers.rules import Keywords, Length
from outrider.search.scorers.sandbox import trouble
from outrider.search.scorers.scorer import ScorerError, checked_scores
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import searched


def test_keywords_are_whole_words_in_any_case() -> None:
    scorer = Keywords(("sea", "wind"))
    texts = ["The Sea and the wind.", "seaside windows", "a sea", ""]
    assert scorer.score("", texts) == [1.0, 0.0, 0.5, 0.0]


def test_a_length_is_best_at_its_number() -> None:
    assert Length(4).score("", ["one two three four", "one two", ""]) == [0.0, -0.5, -1.0]


def test_functions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def vowels(text):\n    return sum(c in 'aeiou' for c in text)\n")
    scorer = make_scorer(f"{file}:vowels")
    assert scorer.score("", ["sea", "b"]) == [2, 0]
    assert scorer.name == f"{file}:vowels"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keywords:", "no word"),
        ("length:many", "Write length:40"),
        ("length:0", "Give a number of words"),
        ("luck", "Give keywords:WORD,WORD"),
        ("/nowhere/mine.py:f", "there is no file"),
    ],
)
def test_wrong_names_are_one_line(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        make_scorer(text)
    assert "\n" not in str(caught.value)


def test_programs_run_only_with_permission(tmp_path: Path) -> None:
    file = tmp_path / "tests.txt"
    file.write_text("assert f() == 1\n\nassert f() > 0\n")
    with pytest.raises(OptionError, match="without permission"):
        make_scorer(f"tests:{file}")
    if trouble():
        pytest.skip("no sandbox on this machine")
    scorer = make_scorer(f"tests:{file}", allow_code_execution=True)
    assert scorer.score("", ["def f():\n    return 1", "def f():\n    return 2"]) == [1.0, 0.5]


def test_files_with_errors_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise ValueError('no\\nluck')\n")
    with pytest.raises(OptionError, match="cannot be run: ") as caught:
        make_scorer(f"{file}:f")
    assert "\n" not in str(caught.value)
    file.write_text("f = 3\n")
    with pytest.raises(OptionError, match="has no function 'f'"):
        make_scorer(f"{file}:f")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda text: 1 / 0, "failed: .*division"),
        (lambda text: float("nan"), "returned nan"),
        (lambda text: "good", "failed: "),
    ],
)
def test_what_is_no_score_is_named(function, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        checked_scores(FunctionScorer(function, title="mine"), "", ["a"])


def test_a_wrong_number_of_scores_is_named() -> None:
    class Short:
        name = "short"

        def score(self, prompt: str, texts: list[str]) -> list[float]:
            return [1.0]

    with pytest.raises(ScorerError, match="returned 1 scores for 2 texts"):
        checked_scores(Short(), "", ["a", "b"])


def test_the_scorer_may_read_the_prompt() -> None:
    scorer = FunctionScorer(lambda prompt, text: len(prompt) - len(text), with_prompt=True)
    found = searched(
        BestOfN(samples=3), tabular_family().target, (1, 2), scorer=scorer, temperature=1.0
    )
    assert [one.score for one in found.candidates] == [2 - len(c.text) for c in found.candidates]


def make_classifier(folder: Path, labels: int) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = {"[UNK]": 0, "[PAD]": 1, "sea": 2, "wind": 3}
    inner = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=labels,
        pad_token_id=1,
        max_position_embeddings=16,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)


def test_a_reward_model_scores_each_text_alone_as_in_a_batch(tmp_path: Path) -> None:
    make_classifier(tmp_path, 1)
    scorer = make_scorer(f"classifier:{tmp_path}")
    texts = ["sea wind", "wind", "sea sea sea wind sea"]
    together = scorer.score("wind", texts)
    alone = [scorer.score("wind", [text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3


def test_a_label_is_a_log_probability(tmp_path: Path) -> None:
    make_classifier(tmp_path, 2)
    with pytest.raises(OptionError, match="Give one of LABEL_0, LABEL_1"):
        Classifier.load(tmp_path)
    scores = [Classifier.load(tmp_path, f"LABEL_{i}").score("", ["sea wind"])[0] for i in (0, 1)]
    assert sum(torch.tensor(scores).exp().tolist()) == pytest.approx(1.0)


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no classifier at"):
        Classifier.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Classifier.load(tmp_path)
