"""`outrider drafters`: who can draft."""

from typing import Annotated

from outrider.cli.options.options import option
from outrider.cli.ui.render import print_json

_NAMES = 11
"""Columns of the names."""


def drafters(
    json: Annotated[bool, option("--json", panel="Output", help="Print one JSON object.")] = False,
) -> None:
    """List every drafter: what it drafts, needs and keeps, and the paper.

    Any of them leaves the text as it is in mode exact, the default: a draft is
    accepted where it is what the target would have written. V is the size of
    the vocabulary, n the tokens of a text.

    For example:

      outrider drafters
      outrider generate "Once upon a time" --drafter recycling
    """
    from outrider.drafters.catalogue import KINDS

    if json:
        print_json(
            {
                "drafters": {
                    name: {
                        "summary": kind.summary,
                        "needs": kind.needs,
                        "memory": kind.memory,
                        "exactness": kind.exactness,
                        "tree": kind.tree,
                        "paper": kind.paper,
                    }
                    for name, kind in KINDS.items()
                }
            }
        )
        return
    for name, kind in KINDS.items():
        facts = (f"needs {kind.needs}", f"memory {kind.memory}", kind.exactness, kind.paper)
        print(f"{name:<{_NAMES}}{kind.summary}")
        print(" " * _NAMES + "; ".join(filter(None, facts)))
