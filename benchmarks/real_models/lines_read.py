"""Whether the line that a question needs is among what is read; the model itself does not run.

    python -m benchmarks.real_models.lines_read MODEL --data DIR

The documents and questions of `long_inputs`, all 200, with the tokenizer and the input embeddings
of the model: the share of questions whose line is in a chunk that is read, with Wilson's interval,
for each selector and keep ratio.
"""

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.long_inputs.intervals import wilson
from benchmarks.real_models.long_inputs import FORMS, documents, line_of
from benchmarks.real_models.readers import DENSE, Readers

from outrider.context.config import ContextConfig
from outrider.context.rankers.make import make_ranker
from outrider.context.selector import Selected

_SELECTORS = ("apce", "cosine", "bm25", "random", "ends")
_RATIOS = (0.7, 0.5, 0.3, 0.1)


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--documents", type=int, default=50, help="four questions each")
    parser.add_argument("--form", default="question", choices=FORMS)
    parser.add_argument("--same-kind", action="store_true", help="four facts of one kind")
    args = parser.parse_args()
    readers = Readers.open(args.model, (), threads=1, context={})
    model = readers.by[DENSE].strategy.target
    # The selectors by cosine share one ranker for all ratios: it encodes each document once.
    rankers = {name: make_ranker(ContextConfig(selector=name), model.embed) for name in _SELECTORS}
    asked, chat, _ = FORMS[args.form]
    read, questions = Counter[tuple[str, float]](), 0
    file = args.data / "pd_books" / "novels.jsonl.zst"
    for document in documents(
        file, readers, args.documents, (3000, 7000), 0, mixed=not args.same_kind
    ):
        for about, code in document.facts:
            questions += 1
            text = asked.format(about)
            instruction = [{"role": "user", "content": text}] if chat else text
            prompt = readers.by[DENSE].prompt(instruction, documents=document.text)
            assert prompt.context is not None
            for name in _SELECTORS:
                for ratio in _RATIOS:
                    config = ContextConfig(selector=name, keep_ratio=ratio)
                    chosen = Selected(model, rankers[name], config).selection(prompt).chosen
                    texts = (prompt.context.chunks[i].text for i in chosen)
                    read[name, ratio] += any(line_of(about, code) in one for one in texts)
    print(f"{questions} questions")
    for name in _SELECTORS:
        for ratio in _RATIOS:
            found = read[name, ratio]
            low, high = wilson(found, questions)
            share = found / questions
            print(f"{name}, keep ratio {ratio}: {found}, {share:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
