"""What `load` was asked for: who drafts, at which lengths, with which thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.acceptance import Match, RecursiveRejection
from outrider.core.checks import Range
from outrider.core.errors import OptionError, nearest
from outrider.drafters.catalogue import FREE, KINDS
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import DraftPolicy, LanguageModel
from outrider.sampling import SamplingParams
from outrider.strategy import (
    DEFAULT_THRESHOLD_QUALIFIER,
    DEFAULT_THRESHOLD_TARGET,
    PyramidConfig,
    Strategy,
    pyramid,
)
from outrider.strategy.auto import Automatic
from outrider.strategy.calibration import Calibration, ModelId, Subject, Threshold
from outrider.strategy.parts import Given, free_parts
from outrider.strategy.trees import check_tree, tree_parts

_NODES = 16
"""Tokens of a tree where lengths are fixed and none was given."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Both thresholds as given. A share can be resolved only once the warps are known."""

    mode: str
    qualifier: Threshold
    target: Threshold

    @classmethod
    def parse(
        cls, mode: str, qualifier: float | str | None, target: float | str | None
    ) -> "Thresholds":
        """Read both; None stands for the default. Raises `OptionError`."""
        tau_q = DEFAULT_THRESHOLD_QUALIFIER if qualifier is None else qualifier
        tau_t = DEFAULT_THRESHOLD_TARGET if target is None else target
        return cls(mode, Threshold.parse(tau_q), Threshold.parse(tau_t))

    @property
    def calibrated(self) -> bool:
        """Whether a calibration is needed: a threshold that the mode reads is a share."""
        read = {"assisted": [self.target], "fuzzy": [self.target, self.qualifier]}
        return any(threshold.value is None for threshold in read.get(self.mode, []))

    @property
    def plain_qualifier(self) -> float:
        """The qualifier's number, or a stand-in until it is looked up."""
        value = self.qualifier.value
        return DEFAULT_THRESHOLD_QUALIFIER if value is None else value

    @property
    def plain_target(self) -> float:
        """The target's number, or a stand-in until it is looked up."""
        return DEFAULT_THRESHOLD_TARGET if self.target.value is None else self.target.value


_TREE_NODES = Range(1, optional=True, hint="Draft at least 1 token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Who drafts, and whether at lengths that stay as they are.

    Attributes:
        drafter: one of `KINDS`.
        config: modes, lengths and thresholds.
        fixed: whether lengths stay as they are.
        tree: how the draft model grows trees, one of `TREES`; None drafts chains.
        nodes: tokens of a tree, where that was given.
        datastore: what retrieving drafters read, opened.

    Raises:
        OptionError: an unknown drafter or tree, one whose tokens the mode can not judge, or a
            size of trees for a drafter of chains.
    """

    drafter: str
    config: PyramidConfig
    fixed: bool
    tree: str | None = None
    nodes: int | None = None
    datastore: Any = None

    def __post_init__(self) -> None:
        if self.drafter not in KINDS:
            raise OptionError(
                f"unknown drafter {self.drafter!r}", hint=nearest(self.drafter, KINDS)
            )
        if self.drafter in FREE and self.config.mode in ("assisted", "fuzzy"):
            raise OptionError(
                f"mode {self.config.mode!r} compares the laws of two models, and drafter "
                f"{self.drafter!r} has none",
                hint="Use mode exact, or drafter model or pyramid",
            )
        self._check_tree()

    def _check_tree(self) -> None:
        if self.tree is not None:
            check_tree(self.tree)
            if self.drafter != "model" or self.config.mode in ("assisted", "fuzzy"):
                raise OptionError(
                    f"tree {self.tree!r} is given with drafter {self.drafter!r} in mode "
                    f"{self.config.mode!r}",
                    hint="Trees are grown by drafter model, in mode exact or distribution",
                )
        if self.nodes is not None and self.tree is None and not KINDS[self.drafter].tree:
            raise OptionError(
                f"num_draft_nodes is {self.nodes}, and drafter {self.drafter!r} drafts chains",
                hint="Give num_speculative_tokens, or a tree",
            )
        _TREE_NODES.check("num_draft_nodes", self.nodes)

    def tiers(self, found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """The tiers that take part: target first, draft model last."""
        if self.drafter in FREE or self.drafter == "none":
            return found[:1]
        return [found[0], *found[1:][-1:]] if self.drafter == "model" else found

    def check(self, tiers: int) -> None:
        """Raise `OptionError` when there are too few tiers."""
        mode, drafter = self.config.mode, self.drafter
        if mode == "none" or drafter in FREE or drafter == "none":
            return
        if drafter == "pyramid" and tiers < 3:
            raise OptionError(
                "drafter 'pyramid' needs a qualifier and a draft model",
                hint="Give qualifier=... and draft=..., or use drafter 'auto'",
            )
        if tiers < 2 and (drafter == "model" or mode != "exact"):
            raise OptionError(
                f"mode {mode!r} with drafter {drafter!r} needs a draft model or a qualifier",
                hint="Give draft=..., or use mode 'exact' with drafter 'lookup'",
            )

    def strategy(self, models: Sequence[LanguageModel], config: PyramidConfig) -> Strategy:
        """The strategy over `models`; `config` is this recipe's, its thresholds resolved."""
        target, *below = models
        if config.mode == "none" or self.drafter == "none":
            return Strategy(target=target)
        if not self.fixed:
            return Automatic(target, below, datastore=self.datastore, tree=self.tree).strategy(
                self.drafter
            )
        if below and self.tree is None:
            return pyramid(target, below[-1], below[:-1], config)
        return self._fixed(target, below, config)

    def _fixed(
        self, target: LanguageModel, below: Sequence[LanguageModel], config: PyramidConfig
    ) -> Strategy:
        """Drafts of one size by a drafter that is no pyramid."""
        if self.tree is not None:
            parts = tree_parts(self.tree, below[-1])
        else:
            name = "lookup" if self.drafter == "auto" else self.drafter
            parts = free_parts(name, Given(target=target, datastore=self.datastore))
        depth = config.num_speculative_tokens
        policy: DraftPolicy = FixedLength(depth)
        if parts.tree:
            nodes = self.nodes or max(_NODES, depth)
            policy = FixedTree(depth=min(depth, nodes), nodes=nodes)
        rule = RecursiveRejection() if config.mode == "distribution" else Match()
        return Strategy(target=target, drafter=parts.drafter, rule=rule, policy=policy)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Models, largest first, and what a strategy over them needs to know."""

    models: tuple[LanguageModel, ...]
    recipe: Recipe
    thresholds: Thresholds
    calibrations: tuple[Calibration, ...]

    def strategy(self, params: SamplingParams) -> Strategy:
        """The strategy for requests with these warps; shares of positions become divergences."""
        config = self.recipe.config
        if self.thresholds.calibrated and len(self.models) > 1:
            config = replace(config, threshold_target=self._resolve(0, params))
            if len(self.models) > 2 and config.mode == "fuzzy":
                config = replace(config, threshold_qualifier=self._resolve(1, params))
        return self.recipe.strategy(self.models, config)

    def _resolve(self, verifier: int, params: SamplingParams) -> float:
        threshold = self.thresholds.target if verifier == 0 else self.thresholds.qualifier
        subject = Subject(
            divergence=self.recipe.config.divergence,
            proposer=ModelId.of(self.models[verifier + 1]),
            verifier=ModelId.of(self.models[verifier]),
            warps=params.warps,
        )
        return threshold.resolve(self.calibrations, subject)
