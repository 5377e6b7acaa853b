"""Lists every method that a user can name, with the file that implements it.

One tuple for each kind lists modules; each module declares `METHOD`, the record of its method. The
name of a method is the name of its file, so that `--help` can list names without loading PyTorch.
A new method is one file and one entry here.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from outrider.context.catalogue import SELECTORS
from outrider.core.errors import OptionError, nearest
from outrider.core.naming import name_of

if TYPE_CHECKING:
    from outrider.drafters.method import DrafterMethod
    from outrider.protocols.method import Method

DRAFTERS = (
    "strategy.auto",
    "drafters.copying.lookup",
    "drafters.copying.copyspec",
    "drafters.copying.sam",
    "drafters.copying.suffix",
    "drafters.copying.successors",
    "drafters.statistics.recycling",
    "drafters.statistics.aded",
    "drafters.statistics.stand",
    "drafters.copying.iad",
    "drafters.copying.rest",
    "drafters.statistics.lookahead",
    "drafters.layers.swift",
    "drafters.layers.del_",
    "drafters.layers.skip",
    "drafters.neural.model",
    "drafters.neural.tree",
    "drafters.neural.s2d",
    "drafters.neural.universal",
    "drafters.neural.deer",
    "drafters.heads.hinted",
    "drafters.heads.eagle3",
    "drafters.heads.eagle1",
    "drafters.heads.fspad",
    "drafters.heads.medusa",
    "drafters.heads.chimera",
    "drafters.heads.clover",
    "drafters.heads.ppd",
    "drafters.heads.lud",
    "drafters.combine.pyramid",
    "drafters.combine.bypass",
    "drafters.combine.specmquant",
    "drafters.combine.fallback",
    "drafters.combine.switch",
    "drafters.combine.merge",
    "drafters.combine.pearl",
    "drafters.statistics.recorded",
    "drafters.none",
)
"""Modules of drafters; combinations are drafters made of other drafters."""

GROWTHS = (
    "drafters.neural.growth.top_k",
    "drafters.neural.growth.eagle2",
    "drafters.neural.growth.clover",
    "drafters.neural.growth.dyspec",
    "drafters.neural.growth.dyspec_nodes",
    "drafters.neural.growth.rsd_c",
    "drafters.neural.growth.rsd_s",
    "drafters.neural.growth.iid",
    "drafters.neural.growth.spine",
)
"""Modules of growths: how a draft model grows trees."""

RULES = (
    "acceptance.match",
    "acceptance.rejection",
    "acceptance.recursive",
    "acceptance.kseq",
    "acceptance.typical",
    "acceptance.top_beta",
    "acceptance.fuzzy",
    "acceptance.judge",
    "acceptance.lud",
)
"""Modules of acceptance rules: which tokens of a draft the target keeps."""

POLICIES = (
    "policies.expected_gain",
    "policies.fixed",
    "policies.fixed_tree",
    "policies.confidence",
    "policies.specdec_plus",
)
"""Modules of policies: how many tokens are drafted in a round."""

MODELS = ("models.wrappers.skipping", "models.latents.augmented")
"""Modules of models that wrap the target and change its text."""

GUIDANCE = (
    "guidance.contrastive",
    "guidance.dola",
    "guidance.proxy_tuning",
    "guidance.two_prompt",
    "guidance.classifier_free",
    "guidance.lm_guidance",
    "guidance.routing.foreal",
    "guidance.prompts.uscd",
    "guidance.prompts.lqcd",
    "guidance.retrieval.caad",
    "guidance.routing.fs_gen",
)
"""Modules of guidance methods, which change the target's distribution."""

CONSTRAINTS = ("constraints.monte_carlo.awrs",)
"""Modules of methods that sample under a constraint."""

SEARCHES = (
    "search.beams.beam",
    "search.beams.diverse_beam",
    "search.beams.deal",
    "search.fusion.gfd",
    "search.samples.best_of_n",
    "search.samples.majority",
    "search.samples.first_finish",
    "search.samples.icn",
    "search.steps.contrastive",
    "search.steps.momentum",
    "search.steps.cntp",
    "search.steps.ada_dec",
    "search.steps.transfer_q",
    "search.steps.superposed",
    "search.trees.a_star",
    "search.trees.pg_td",
    "search.spans.exact_extract",
    "search.spans.cfic",
)
"""Modules of search strategies, which write several texts or branches."""

KV_POLICIES = (
    "models.caches.eviction.streaming",
    "models.caches.eviction.h2o",
    "models.caches.eviction.snapkv",
    "models.caches.eviction.heads.duo",
    "models.caches.eviction.heads.rlkv",
    "models.caches.eviction.blocks.infllm",
    "models.caches.eviction.blocks.actqkv",
)
"""Modules of policies of the cache, which decide which rows of a text it keeps."""

LEARNERS = ("learning.osd",)
"""Modules of learners, which train a draft model while requests run."""

DIFFUSION = (
    "diffusion.rules.low_confidence",
    "diffusion.rules.threshold",
    "diffusion.rules.factor",
    "diffusion.rules.learned",
    "diffusion.rules.confident",
    "diffusion.rules.explore",
)
"""Modules of commit rules, which write the texts of masked denoisers."""

VALUES = ("diffusion.continuous.cspd",)
"""Modules of methods that write real vectors in place of tokens."""

KINDS: Mapping[str, Sequence[str]] = {
    "drafter": DRAFTERS,
    "growth": GROWTHS,
    "rule": RULES,
    "policy": POLICIES,
    "model": MODELS,
    "selector": SELECTORS,
    "guidance": GUIDANCE,
    "kv-policy": KV_POLICIES,
    "constraint": CONSTRAINTS,
    "learner": LEARNERS,
    "search": SEARCHES,
    "diffusion": DIFFUSION,
    "values": VALUES,
}
"""Maps each kind of method to its tuple of modules."""

GUARD_MODES = ("off", "warn", "on")
"""Modes of the guard of drafting (`policies/guard/`); listed here, where PyTorch is not needed."""

MODES: dict[str, str] = {
    "exact": "the target's own text, token for token",
    "distribution": "another sample of the target's distribution (outer rejection sampling)",
    "assisted": "PSD_A: the qualifier writes its own text; the target accepts by a threshold",
    "fuzzy": "PSD_F: every level accepts by a threshold",
    "none": "undrafted decoding",
}
"""Modes of drafting, and what they write."""


def names(kind: str) -> list[str]:
    """Return the names of a kind's methods in listing order, without importing their modules."""
    return [name_of(module) for module in KINDS[kind]]


def record(kind: str, name: str) -> "Method[object]":
    """Return the record of a method.

    Raises `OptionError` for an unknown name; the message suggests the nearest one.
    """
    for module in KINDS[kind]:
        if name_of(module) == name:
            return import_module(f"outrider.{module}").METHOD
    raise OptionError(f"unknown {kind} {name!r}", hint=nearest(name, names(kind)))


def records(kind: str) -> Iterator["Method[object]"]:
    """Yield the records of all methods of a kind, in listing order."""
    return (record(kind, name) for name in names(kind))


def drafter_record(name: str) -> "DrafterMethod":
    """Return the record of a drafter.

    Raises `OptionError` for an unknown name; the message suggests the nearest one.
    """
    from outrider.drafters.method import DrafterMethod

    found = record("drafter", name)
    assert isinstance(found, DrafterMethod)
    return found


def drafter_records() -> list["DrafterMethod"]:
    """Return the records of all drafters, in listing order."""
    return [drafter_record(name) for name in names("drafter")]
