"""Long documents with summaries that people wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.long_inputs.inputs.texts import read_lines

DATASETS = ("eval_squality", "eval_qmsum", "eval_gov_report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One question about one document, and human answers to it.

    Attributes:
        name: unlike that of any other.
        dataset: where it is from.
        document: the name of its text; several questions may have the same.
        text: the document.
        asked: the instruction.
        references: at least one; the first is the one whose likelihood is measured.
    """

    name: str
    dataset: str
    document: str
    text: str
    asked: str
    references: tuple[str, ...]


def read_summaries(data: Path, documents: int, questions: int) -> Iterator[Summary]:
    """So many documents of each set, from its beginning, and so many questions about each."""
    for dataset, pairs in (
        ("eval_squality", _squality(data)),
        ("eval_qmsum", _qmsum(data)),
        ("eval_gov_report", _gov_report(data)),
    ):
        for number, (text, asked) in enumerate(pairs):
            if number >= documents:
                break
            for place, (question, references) in enumerate(asked[:questions]):
                yield Summary(
                    name=f"{dataset}-{number}-{place}",
                    dataset=dataset,
                    document=f"{dataset}-{number}",
                    text=text,
                    asked=question,
                    references=references,
                )


_Pairs = Iterator[tuple[str, list[tuple[str, tuple[str, ...]]]]]


def _squality(data: Path) -> _Pairs:
    for item in read_lines(data / "eval_squality" / "test.jsonl.zst"):
        asked = [(q["question"], tuple(q["summaries"])) for q in item["questions"]]
        yield item["document"], asked


def _qmsum(data: Path) -> _Pairs:
    for item in read_lines(data / "eval_qmsum" / "test.jsonl.zst"):
        asked = [*item["general"][:1], *item["specific"]]
        yield item["transcript"], [(q["query"], (q["answer"],)) for q in asked]


def _gov_report(data: Path) -> _Pairs:
    for item in read_lines(data / "eval_gov_report" / "gov_report.jsonl.zst"):
        yield item["document"], [(item["instruction"], (item["summary"],))]
