"""The card of a trained head."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.judge import Judged


def head_card(
    recipe: HeadRecipe,
    *,
    parameters: int,
    tokens: int,
    kinds: Mapping[str, int],
    judged: Judged | None,
) -> str:
    """Write the card as Markdown.

    Args:
        recipe: the options of the run.
        parameters: number of weights of the head.
        tokens: number of answer tokens that it was trained on.
        kinds: number of answers by the name of the file of their prompts.
        judged: what it achieves; None before it is measured.
    """
    start = recipe.training.start
    further = f" It continues the training of the head `{Path(start).name}`." if start else ""
    lines = [
        f"# {recipe.name}",
        "",
        f"A draft head of kind `{recipe.kind}` for `{recipe.target}`, with "
        f"{parameters / 1e6:.1f} million weights and a draft vocabulary of {recipe.draft_vocab} "
        "tokens. It reads hidden states of its target and drafts its next tokens; the text of the "
        f"target does not change. Made with `outrider train head`.{further}",
        "",
        f"Trained on {tokens:,} tokens of {sum(kinds.values()):,} answers that the target itself "
        f"wrote, at temperatures {_listed(recipe.answers.temperatures)}, to prompts from:",
        "",
        "| prompts | answers | licence of the records |",
        "|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {kinds.get(one.name, 0)} | {one.licence} |" for one in recipe.prompts
    ]
    if judged is not None:
        lines += ["", f"On {judged.prompts} other prompts, {judged.summary}."]
    return "\n".join([*lines, ""])


def _listed(numbers: Sequence[float]) -> str:
    return " and ".join(f"{number:g}" for number in numbers)
