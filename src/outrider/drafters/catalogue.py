"""Every drafter that `load` and the command line know by name, and what each of them needs."""

from dataclasses import dataclass

NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One drafter, described.

    Attributes:
        summary: what it drafts.
        needs: what it can not do without, beside the target.
        memory: what it keeps, in bytes for a vocabulary of V or a text of n tokens.
        paper: where the idea is from.
        learns: whether it remembers rows of the target.
        free: whether it needs no model beside the target.
        tree: whether it drafts trees.
    """

    summary: str
    needs: str = NOTHING
    memory: str = "none"
    paper: str = ""
    free: bool = True
    tree: bool = False

    @property
    def exactness(self) -> str:
        """What the text is promised to be, which is the rule's affair and never the drafter's."""
        return "identical"


KINDS: dict[str, Kind] = {
    "auto": Kind(
        summary="whatever is expected to be fastest, decided while writing: copies, then the draft "
        "model where there is one, else recycled rows",
        memory="of its parts",
        paper="expected gain: Leviathan et al. 2023, arXiv 2211.17192",
        free=False,
    ),
    "lookup": Kind(
        summary="what followed the last few tokens earlier in the text",
        memory="100n for each length of n-gram",
        paper="prompt lookup decoding, Saxena 2023",
    ),
    "copyspec": Kind(
        summary="the same by one hash of the last three tokens, copied at length",
        memory="100n",
        paper="CopySpec, arXiv 2502.08923",
    ),
    "sam": Kind(
        summary="what followed the longest match in the text, or in a datastore",
        memory="about 550n, up to 2^18 tokens",
        paper="SAM-Decoding, arXiv 2411.10666",
    ),
    "suffix": Kind(
        summary="the likeliest continuations by counts, of this text and of earlier requests",
        memory="about 550n, up to 2^17 tokens of all requests, then the oldest are dropped",
        paper="SuffixDecoding, arXiv 2411.04975",
        tree=True,
    ),
    "recycling": Kind(
        summary="a tree of what the target last thought likely after each token",
        memory="32V",
        paper="Token Recycling, arXiv 2408.08696",
        tree=True,
    ),
    "aded": Kind(
        summary="a search over a table of trigrams that adapts to the text",
        memory="bounded; old trigrams are dropped",
        paper="ADED, arXiv 2407.12021",
        tree=True,
    ),
    "stand": Kind(
        summary="a tree drawn from the target's own earlier distributions after the same tokens",
        memory="bounded; old n-grams are dropped",
        paper="STAND, arXiv 2506.04708",
        tree=True,
    ),
    "iad": Kind(
        summary="the rest of the prompt, re-aligned after each change: for edits and corrections",
        memory="100n for each length of n-gram",
        paper="Aggressive Decoding, arXiv 2205.10350",
    ),
    "rest": Kind(
        summary="continuations retrieved from a corpus",
        needs="a datastore (`outrider datastore build`)",
        memory="8 bytes a token of the corpus, on disk",
        paper="REST, arXiv 2311.08252",
        tree=True,
    ),
    "lookahead": Kind(
        summary="n-grams that the target itself guesses ahead in a window of the same forward",
        memory="bounded: a few n-grams a token",
        paper="Lookahead decoding, arXiv 2402.02057",
        tree=True,
    ),
    "swift": Kind(
        summary="the target without some of its layers, which ones is searched while writing",
        memory="none: weights and cache are the target's",
        paper="SWIFT, arXiv 2410.06916",
    ),
    "del": Kind(
        summary="the first layers of the target, as many and as far as pays",
        needs="a target trained for early exits, to be of use",
        memory="none: weights and cache are the target's",
        paper="DEL, arXiv 2504.05598",
    ),
    "skip": Kind(
        summary="every second layer of the target",
        memory="none: weights and cache are the target's",
        paper="Unified Layer Skipping, arXiv 2404.06954",
    ),
    "model": Kind(
        summary="the draft model alone; as a tree with --tree",
        needs="a draft model",
        memory="the draft model and its cache",
        paper="speculative decoding, arXiv 2211.17192",
        free=False,
    ),
    "pyramid": Kind(
        summary="the draft model and every qualifier",
        needs="a draft model and a qualifier",
        memory="both models and their caches",
        paper="PyramidSD, arXiv 2510.12966",
        free=False,
    ),
    "none": Kind(summary="undrafted decoding"),
}
"""By name, in the order in which they are listed."""

FREE = tuple(name for name, kind in KINDS.items() if kind.free and name != "none")
"""Those that need no model beside the target."""
