"""In-context navigation beside sampling; right answers are known names of one word each.

    python -m benchmarks.search.icn smollm2

Each question is answered by `--runs` times `--each` answers: with the list of what was found, and
without it (the ablation: the best first tokens of the prompt). Sampling at temperature 1 writes
answers after the same text until it has computed as many rows as the first of these. Counted are
different right answers. Intervals draw questions, and differences are paired.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from benchmarks.search.first_finish import mean
from rich.progress import track

from outrider import load
from outrider.search import Candidate, Search, SearchResult, Task
from outrider.search.plain import plain_tokens
from outrider.search.samples.icn import Icn
from outrider.search.segments import branch_of

ASK = "Write a list of {things}, each in quotation marks."
LISTS = {
    "countries of Europe": """albania andorra austria belarus belgium bulgaria croatia cyprus
        denmark
        estonia finland france germany greece hungary iceland ireland italy kosovo latvia
        liechtenstein lithuania luxembourg malta moldova monaco montenegro netherlands norway poland
        portugal romania russia serbia slovakia slovenia spain sweden switzerland ukraine""",
    "chemical elements": """hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine
        neon sodium magnesium aluminum aluminium silicon phosphorus sulfur chlorine argon potassium
        calcium scandium titanium vanadium chromium manganese iron cobalt nickel copper zinc gallium
        germanium arsenic selenium bromine krypton rubidium strontium yttrium zirconium silver
        cadmium indium tin antimony iodine xenon cesium barium tungsten platinum gold mercury
        thallium lead bismuth polonium astatine radon francium radium thorium uranium plutonium""",
    "states of the USA": """alabama alaska arizona arkansas california colorado connecticut delaware
        florida georgia hawaii idaho illinois indiana iowa kansas kentucky louisiana maine maryland
        massachusetts michigan minnesota mississippi missouri montana nebraska nevada ohio oklahoma
        oregon pennsylvania tennessee texas utah vermont virginia washington wisconsin wyoming""",
    "countries of Africa": """algeria angola benin botswana burundi cameroon chad comoros congo
        djibouti egypt eritrea eswatini ethiopia gabon gambia ghana guinea kenya lesotho liberia
        libya madagascar malawi mali mauritania mauritius morocco mozambique namibia niger nigeria
        rwanda senegal seychelles somalia sudan tanzania togo tunisia uganda zambia zimbabwe""",
    "planets": "mercury venus earth mars jupiter saturn uranus neptune",
    "colors": """red orange yellow green blue indigo violet purple pink brown black white gray grey
        cyan magenta turquoise teal maroon navy beige gold silver lavender olive lime""",
    "fruits": """apple apples banana bananas orange oranges grape grapes mango mangoes pear pears
        peach peaches plum plums cherry cherries kiwi lemon lemons lime limes strawberry
        strawberries blueberry blueberries raspberry raspberries pineapple pineapples watermelon
        papaya apricot apricots fig figs pomegranate grapefruit coconut melon""",
    "musical instruments": """piano guitar violin viola cello flute clarinet oboe bassoon trumpet
        trombone tuba saxophone drums drum harp banjo mandolin ukulele accordion harmonica organ
        xylophone cymbals recorder lute sitar bagpipes keyboard bass""",
}


@dataclass(frozen=True, kw_only=True)
class Sampled(Search):
    """Writes samples after the text with which a list begins.

    Attributes:
        form: the list.
        rows: rows after which it ends.
    """

    form: Icn
    rows: int

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return all answers, as many as fit."""
        codec = task.need_codec("this comparison")
        begin = branch_of(task.cache, plain_tokens(codec, self.form.prompt_after([])))
        closing = self.form.closing

        def until(new: Sequence[int]) -> int | None:
            counts = range(1, len(new) + 1)
            return next((n for n in counts if closing in task.text(new[:n])), None)

        found: list[Candidate] = []
        while task.account.tokens < self.rows:
            samples = range(len(found), len(found) + self.form.each)
            for one in task.passages.write(
                [begin] * self.form.each, samples, most=self.form.length, until=until
            ):
                answer = task.text(one.tokens).split(closing)[0].strip()
                found.append(task.candidate(one.tokens, -len(found), answer=answer))
        return found


def right(found: SearchResult, words: str) -> tuple[int, int, int]:
    """Return how many answers are right and different, are different, and there are."""
    answers = [str(one.about["answer"]).lower().strip(" .,") for one in found.candidates]
    return len({*answers} & {*words.split()}), len({*answers}), len(answers)


def main() -> None:
    """Answer all questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="no question begins later")
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    form = {"runs": given.runs, "each": given.each, "length": given.length}
    begun = perf_counter()
    found: dict[str, list[tuple[int, int, int]]] = {}
    rows: dict[str, list[int]] = {}
    for things, words in track(LISTS.items()):
        if perf_counter() - begun > given.seconds:
            break
        prompt = [{"role": "user", "content": ASK.format(things=things)}]
        listed = generator.search(Icn(**form), prompt)
        results = {
            "icn": listed,
            "no list": generator.search(Icn(**form, listed=False), prompt),
            "sampling": generator.search(
                Sampled(form=Icn(**form), rows=listed.tokens), prompt, temperature=1.0, seed=1
            ),
        }
        for name, result in results.items():
            found.setdefault(name, []).append(right(result, words))
            rows.setdefault(name, []).append(result.tokens)
    print(f"{len(found['icn'])} questions")
    print("| | right and different | icn minus this | different | answers | rows |")
    print("|---|---|---|---|--:|--:|")
    for name, counts in found.items():
        first = [one[0] for one in counts]
        gain = [a[0] - b for a, b in zip(found["icn"], first, strict=True)]
        print(
            f"| {name} | {mean(first)} | {mean(gain)} | {mean([one[1] for one in counts])} "
            f"| {sum(one[2] for one in counts) / len(counts):.0f} "
            f"| {sum(rows[name]) / len(counts):.0f} |"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
