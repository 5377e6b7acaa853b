"""Parallel prompt decoding: trained embeddings after the text make the target guess further tokens.

Chen et al., "Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM
Inference" (arXiv 2405.18628).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from outrider.core.checks import Range, check_ranges
from outrider.drafters.given import Given
from outrider.drafters.heads.ppd_plan import best_plan
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.drafters.heads.prompted import ROWS, PromptDrafter
from outrider.drafters.method import DrafterMethod
from outrider.policies import FixedTree
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value

NODES = Range(1, 512, whole=True, optional=True, hint="Give 1 to 512 nodes")
"""The allowed numbers of rows of a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ppd(PromptDrafter):
    """Drafts what the target itself guesses behind trained prompt tokens.

    A draft is a tree of guesses. Prompt tokens, which are embeddings and no text, hang below some
    of its nodes as probes: the target reads them in the forward that verifies the tree. The rows
    of those below the last kept node are the guesses of the next round, for the tokens after its
    first one. No row of a token reads a prompt token, and none is ever committed, so the rows of
    tokens are those of the target alone. The first draft of a request has prompt tokens only.

    Attributes:
        prompts: the folder that `outrider train ppd` has written, or the prompt tokens.
        nodes: rows of a draft, prompt tokens included; None: what is fastest with the measured
            costs of the target, which may be no draft, and 16 where nothing is measured.
        plan: the trees; None: planned for `nodes`.
        name: the source its tokens are counted under.

    Raises:
        CheckpointError: the files of the prompt tokens are missing or damaged.
        OptionError: a number outside its range.
    """

    prompts: PromptTokens | str | Path
    name: str = "ppd"

    def __post_init__(self) -> None:
        check_ranges(self, {"nodes": NODES})
        if not isinstance(self.prompts, PromptTokens):
            object.__setattr__(self, "prompts", PromptTokens.read(self.prompts))
        if self.plan is None:
            plan = best_plan(self.trained.rates.tolist(), self.rows_of_plan(self.nodes or ROWS))
            object.__setattr__(self, "plan", plan)

    @property
    def trained(self) -> PromptTokens:
        """The prompt tokens, also if the option is a folder."""
        assert isinstance(self.prompts, PromptTokens)
        return self.prompts


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Ppd:
    found = Ppd(**options)  # pyright: ignore[reportArgumentType]
    found.trained.check_target(given.target)
    plan = found.fastest(given)
    return found if plan is None else replace(found, plan=plan)


METHOD = DrafterMethod(
    name="ppd",
    cls=Ppd,
    summary="guesses of the target itself, read behind trained prompt tokens in the same forward",
    paper=Paper("Parallel prompt decoding", "2405.18628"),
    needs="prompt tokens of the target, from `outrider train ppd`",
    memory="a few embeddings",
    make=_make,
    tree=True,
    # Prompt tokens must be verified every round, so the size is that of the plan.
    policy=FixedTree(depth=8, nodes=64),
)
