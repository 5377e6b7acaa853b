"""Rules, policies, combinators and runners that no option of the command line reaches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scripts.golden.calls import CHAINS, PROMPT, Case, plain

import outrider
from outrider.acceptance import Fuzzy, KSeq, Match, RecursiveRejection, Rejection, TopBeta, Typical
from outrider.drafters import (
    Bypass,
    Fallback,
    Lookup,
    Merge,
    ModelDrafter,
    NoDrafter,
    Qualified,
    Sam,
    Stand,
    Suffix,
    Switch,
    TokenRecycling,
    TreeDrafter,
)
from outrider.policies import ConfidenceStop, FixedLength, FixedTree, SpecDecPlus


def library() -> Iterator[tuple[str, Case]]:
    """Rules, policies and combinators that no option of the command line reaches."""
    models: dict[str, Any] = {}

    def tier(name: str, dtype: str) -> Any:
        if (name, dtype) not in models:
            folder = Path(outrider.__file__).parent / "families/tiny" / name
            found = outrider.load(str(folder), mode="none", dtype=dtype, threads=1)
            models[name, dtype] = found.strategy.target, found.tokenizer
        return models[name, dtype]

    def case(make: Callable[..., Any], rule: Any, policy: Any, dtype: str) -> Case:
        def run() -> Any:
            target, tokenizer = tier("target", dtype)
            small, middle = tier("draft", dtype)[0], tier("qualifier", dtype)[0]
            strategy = outrider.Strategy(
                target=target, drafter=make(small, middle), rule=rule, policy=policy
            )
            writer = outrider.Generator(strategy, tokenizer=tokenizer)
            options = {"max_new_tokens": 40, "seed": 6, "temperature": 0.9, "top_p": 0.98}
            pair = writer.generate([PROMPT, "It was a cold day and"], **options)
            return [plain(result) for result in pair]

        return run

    chain, tree = FixedLength(5), FixedTree(depth=4, nodes=10)

    def model(small: Any, middle: Any) -> Any:
        return ModelDrafter(model=small)

    def nest(small: Any, middle: Any) -> Any:
        inner = ModelDrafter(model=small)
        return Qualified(drafter=inner, qualifier=middle, policy=FixedLength(3))

    drafters = {
        "none": (lambda s, m: NoDrafter(), chain),
        "model": (model, chain),
        "nest": (nest, FixedLength(8)),
        "stop": (model, ConfidenceStop(longest=6)),
        "specdec++": (model, SpecDecPlus(longest=6)),
        "tree": (lambda s, m: TreeDrafter(model=s), tree),
        "fallback": (lambda s, m: Fallback(first=Lookup(), second=model(s, m)), chain),
        "bypass": (
            lambda s, m: Fallback(first=Lookup(), second=Bypass(qualified=nest(s, m))),
            chain,
        ),
        "switch": (lambda s, m: Switch(first=Sam(), second=TokenRecycling(), at_least=3), tree),
        "merge": (lambda s, m: Merge(first=Suffix(), second=TreeDrafter(model=s)), tree),
        "stand": (lambda s, m: Stand(), tree),
    }
    for name, (make, policy) in drafters.items():
        for dtype in ("float64", "int8"):
            yield f"library {name} {dtype}", case(make, Match(), policy, dtype)
    rules = {
        "rejection": (Rejection(), "model"),
        "recursive": (RecursiveRejection(), "stand"),
        "kseq": (KSeq(), "model"),
        "fuzzy": (Fuzzy("js", 0.3), "nest"),
        "typical": (Typical(), "tree"),
        "top-beta": (TopBeta(), "tree"),
    }
    for name, (rule, drafter) in rules.items():
        make, policy = drafters[drafter]
        yield f"library rule {name}", case(make, rule, policy, "float32")
    yield "library transformers", bridged


def bridged() -> Any:
    """A built `transformers` model: the runner for every other architecture."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(outrider.__file__).parent / "families/tiny"
    target, small = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float64)
        for name in ("target", "draft")
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "target")
    found: dict[str, Any] = {}
    for drafter in ("model", "recycling", "skip"):
        size = "num_speculative_tokens" if drafter in CHAINS else "num_draft_nodes"
        how: Any = {"drafter": drafter, size: 4, "tokenizer": tokenizer}
        writer = outrider.load(target, draft=small, **how)
        text = writer.generate(PROMPT, max_new_tokens=20, temperature=0.8, seed=2)
        found[drafter] = plain(text)
    ids = tokenizer(PROMPT, return_tensors="pt")
    ids = {name: value for name, value in ids.items() if name != "token_type_ids"}
    torch.manual_seed(0)
    out = outrider.generate(
        target, **ids, assistant_model=small, max_new_tokens=12, do_sample=False
    )
    return found | {"generate": out.tolist()}
