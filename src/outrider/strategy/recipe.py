"""Options of `load` for speculation: which drafter, how many tokens, which rule accepts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from outrider.acceptance import Match, RecursiveRejection
from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.growth import Growth
from outrider.memories.store import Datastore
from outrider.models.wrappers.foreign import ForeignModel
from outrider.policies import FixedLength, FixedTree
from outrider.policies.guard import check_mode
from outrider.protocols import (
    NO_NEEDS,
    AcceptanceRule,
    Drafter,
    DraftPolicy,
    LanguageModel,
    Learner,
)
from outrider.protocols.method import Value
from outrider.sampling import SamplingParams
from outrider.strategy.auto import Automatic
from outrider.strategy.calibration import Calibration, CalibrationKey, ModelId
from outrider.strategy.catalogue import drafter_record, record, records
from outrider.strategy.making import check_drafter, drafters_in, make_growth, make_policy, make_rule
from outrider.strategy.modes import PyramidConfig, pyramid
from outrider.strategy.strategy import Strategy
from outrider.strategy.thresholds import Thresholds

_Source = TypeVar("_Source")
_NODES = 16
"""Nodes of a draft tree if sizes are fixed and none is given."""

_COMPARING = ("assisted", "fuzzy")
"""Modes that compare the distributions of two models."""

_OF_MODELS = ("auto", "model", "pyramid")
"""Drafters that the modes in `_COMPARING` support."""

_TREE_NODES = Range(1, optional=True, hint="Draft at least 1 token")


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """How drafts are made and accepted; `load` documents the fields.

    Raises:
        OptionError: a name is unknown, a value is out of range, or options conflict.
    """

    mode: str = "exact"
    drafter: str | Drafter = "auto"
    rule: str | AcceptanceRule | None = None
    policy: str | DraftPolicy | None = None
    growth: str | Growth | None = None
    num_speculative_tokens: int | None = None
    num_qualified_tokens: int | None = None
    num_draft_nodes: int | None = None
    datastore: str | Path | None = None
    divergence: str = "js"
    threshold_qualifier: float | str | None = None
    threshold_target: float | str | None = None
    max_changed: float | None = None
    calibration: str | Path | None = None
    guard: str = "on"

    def __post_init__(self) -> None:
        _ = self.thresholds, self.config  # evaluated for their checks
        check_mode(self.guard)
        if not isinstance(self.drafter, str | Drafter):
            raise OptionError(
                f"drafter is {self.drafter!r:.60}",
                hint="Give a name (`outrider methods`), or an object with the methods of a Drafter",
            )
        if isinstance(self.asked, Expression):
            check_drafter(self.asked)
        self._check_mode()
        self._check_sizes()

    # -- parsed options -------------------------------------------------------------------------

    @cached_property
    def thresholds(self) -> Thresholds:
        """Parse the thresholds of the qualifier and the target."""
        return Thresholds.parse(self.mode, self.threshold_qualifier, self.threshold_target)

    @cached_property
    def config(self) -> PyramidConfig:
        """Collect mode, lengths and thresholds of a pyramid."""
        lengths = {
            "num_speculative_tokens": self.num_speculative_tokens,
            "num_qualified_tokens": self.num_qualified_tokens,
        }
        return PyramidConfig(
            mode=self.mode,
            **{name: length for name, length in lengths.items() if length is not None},
            max_changed=self.max_changed,
            divergence=self.divergence,
            threshold_qualifier=self.thresholds.plain_qualifier,
            threshold_target=self.thresholds.plain_target,
        )

    @cached_property
    def asked(self) -> Expression | Drafter:
        """Return the built drafter, or its parsed expression.

        In an expression, `tree` replaces `model` if a growth is given.
        """
        if not isinstance(self.drafter, str):
            return self.drafter
        parsed = Expression.parse(self.drafter, "drafter")
        return parsed if self.growth is None else _growing(parsed)

    @cached_property
    def named(self) -> list[str]:
        """Names of the drafters that take part, outermost first; empty for a built drafter."""
        return drafters_in(self.asked) if isinstance(self.asked, Expression) else []

    @cached_property
    def records(self) -> list[DrafterMethod]:
        """Records of the drafters that take part."""
        return [drafter_record(name) for name in self.named]

    @cached_property
    def given_rule(self) -> AcceptanceRule | None:
        """Build the acceptance rule from the options; None if none is given."""
        return None if self.rule is None else make_rule(self.rule)

    @cached_property
    def given_policy(self) -> DraftPolicy | None:
        """Build the policy from the options; None if none is given or it is `ExpectedGain`."""
        if self.policy is None or self.gain is not None:
            return None
        return make_policy(self.policy)

    @cached_property
    def gain(self) -> dict[str, Value] | None:
        """Settings of `ExpectedGain`; None unless the policy names it."""
        if not isinstance(self.policy, str):
            return None
        parsed = Expression.parse(self.policy, "policy")
        if parsed.name != "expected-gain":
            return None
        return record("policy", parsed.name).settings(parsed.options)

    @cached_property
    def given_growth(self) -> Growth | None:
        """Build the growth from the options; None if none is given."""
        return None if self.growth is None else make_growth(self.growth)

    @property
    def undrafted(self) -> bool:
        """Whether decoding runs without a drafter."""
        return self.mode == "none" or self.drafter == "none"

    @property
    def drafts_freely(self) -> bool:
        """Whether the drafter is chosen automatically, or needs a draft model of some kind."""
        models = any(record.models == 1 for record in self.records)
        return self.mode == "exact" and ("auto" in self.named or models)

    @property
    def label(self) -> str:
        """The mode that results report; the name of the rule if one is given."""
        if self.given_rule is not None:
            kinds = {one.cls: one.name for one in records("rule")}
            return kinds.get(type(self.given_rule), type(self.given_rule).__name__)
        return "none" if self.undrafted else self.mode

    @property
    def fixed(self) -> bool:
        """Whether draft sizes are fixed.

        A rule that reads probabilities requires fixed sizes: they must not depend on tokens that
        the rule discards.
        """
        lengths = (self.num_speculative_tokens, self.num_qualified_tokens, self.num_draft_nodes)
        reads = self.given_rule is not None and self.given_rule.needs != NO_NEEDS
        return (
            self.mode != "exact"
            or reads
            or self.given_policy is not None
            or any(length is not None for length in lengths)
        )

    # -- checks ---------------------------------------------------------------------------------

    def _check_mode(self) -> None:
        mode = self.mode
        if self.given_rule is not None and mode != "exact":
            raise OptionError(
                f"rule {self.label!r} is given, but mode {mode!r} sets the rule",
                hint="Give only one of the two",
            )
        if mode in _COMPARING and self.named and self.named[0] not in (*_OF_MODELS, "none"):
            if self.growth is not None:
                return  # the check of the growth refuses it
            raise OptionError(
                f"mode {mode!r} compares the distributions of two models, but drafter "
                f"{self.drafter!r} has none",
                hint="Use mode exact, or drafter model or pyramid",
            )

    def _check_sizes(self) -> None:
        _TREE_NODES.check("num_draft_nodes", self.num_draft_nodes)
        if self.given_growth is not None and ("tree" not in self.named or self.mode in _COMPARING):
            raise OptionError(
                f"growth {self.growth!r:.60} does not fit drafter {self.drafter!r:.60} in mode "
                f"{self.mode!r}",
                hint="Use drafter model, in mode exact or distribution",
            )
        if self.num_draft_nodes is not None and self.named and not self.grows_trees:
            raise OptionError(
                f"num_draft_nodes is {self.num_draft_nodes}, but drafter {self.drafter!r} drafts "
                "chains",
                hint="Give num_speculative_tokens, or a growth",
            )
        sizes = (self.num_speculative_tokens, self.num_qualified_tokens, self.num_draft_nodes)
        if self.policy is not None and any(size is not None for size in sizes):
            raise OptionError(
                "a policy and a number of draft tokens are both given",
                hint="Give the number as an option of the policy: fixed(num_speculative_tokens=5)",
            )
        if self.gain is not None and self.fixed:
            reason = f"rule {self.label!r}" if self.rule is not None else f"mode {self.mode!r}"
            raise OptionError(
                f"policy {self.policy!r} adapts draft sizes, but {reason} needs fixed sizes",
                hint="Use policy fixed or confidence, or leave it out",
            )
        _ = self.given_policy

    @property
    def grows_trees(self) -> bool:
        """Whether a drafter that takes part drafts trees.

        True for built drafters, where this is unknown: a drafter of chains then gives a chain of
        the same depth.
        """
        return not self.named or any(record.tree for record in self.records)

    # -- models ---------------------------------------------------------------------------------

    def tiers(self, found: list[tuple[str, _Source]]) -> list[tuple[str, _Source]]:
        """Select the tiers that take part: target first, draft model last."""
        if "auto" in self.named:
            return found
        below = max((record.models for record in self.records), default=0)
        if not below:
            return found[:1]
        return [found[0], *found[1:][-1:]] if below == 1 else found

    def check_tiers(self, tiers: int) -> None:
        """Raise `OptionError` if the options need more tiers than there are."""
        if self.undrafted:
            return
        below = max((record.models for record in self.records), default=0)
        if below > 1 and tiers < 3:
            raise OptionError(
                f"drafter {self.drafter!r} needs a qualifier and a draft model",
                hint="Give qualifier=... and draft=..., or use drafter 'auto'",
            )
        of_models = self.named == ["auto"] and self.mode != "exact"
        if tiers < 2 and any(record.head for record in self.records):
            raise OptionError(
                f"drafter {self.drafter!r} needs a draft head",
                hint="Give draft=FOLDER with a head for this target; see docs/heads.md",
            )
        if tiers < 2 and (below == 1 or of_models):
            raise OptionError(
                f"mode {self.mode!r} with drafter {self.drafter!r} needs a draft model or a "
                "qualifier",
                hint="Give draft=..., or use mode 'exact' with drafter 'lookup'",
            )

    # -- the strategy ---------------------------------------------------------------------------

    def strategy(
        self,
        models: Sequence[LanguageModel],
        config: PyramidConfig,
        datastore: Datastore | None = None,
    ) -> Strategy:
        """Build the strategy for `models`.

        Args:
            models: the largest first.
            config: `self.config` with resolved thresholds.
            datastore: the opened store for drafters that retrieve from one.
        """
        target, *below = models
        if self.undrafted:
            return Strategy(target=target, rule=self.given_rule or Match())
        build = Automatic(target, below, datastore=datastore, growth=self.given_growth)
        if not self.fixed:
            return build.strategy(self.asked, self.given_rule, self.gain)
        plain = self.given_rule is None and self.given_policy is None
        shared = not (below and isinstance(below[-1], ForeignModel))
        if plain and below and shared and self.named in ([name] for name in _OF_MODELS):
            return pyramid(target, below[-1], below[:-1], config)
        return build.fixed(self.asked, self._policy(config), self._rule)

    @property
    def _rule(self) -> AcceptanceRule:
        own = RecursiveRejection() if self.mode == "distribution" else Match()
        return self.given_rule or own

    def _policy(self, config: PyramidConfig) -> DraftPolicy:
        """Build the policy for drafts of one fixed size."""
        if self.given_policy is not None:
            return self.given_policy
        depth = config.num_speculative_tokens
        if not self.grows_trees:
            return FixedLength(depth)
        nodes = self.num_draft_nodes or max(_NODES, depth)
        return FixedTree(depth=min(depth, nodes), nodes=nodes)


def _growing(asked: Expression) -> Expression:
    """Replace `model` with `tree` in the expression."""
    inner = tuple(_growing(part) for part in asked.inner) if asked.name != "tree" else asked.inner
    return replace(asked, name="tree" if asked.name == "model" else asked.name, inner=inner)


@dataclass(frozen=True, slots=True)
class Cascade:
    """The models, largest first, with everything needed to build a strategy for a request."""

    models: tuple[LanguageModel, ...]
    speculation: Speculation
    calibrations: tuple[Calibration, ...] = ()
    datastore: Datastore | None = None
    learner: Learner | None = None

    def strategy(self, params: SamplingParams) -> Strategy:
        """Build the strategy for requests with these warps.

        Thresholds given as shares of positions are resolved to divergences.
        """
        return replace(self._plain(params), learner=self.learner)

    def _plain(self, params: SamplingParams) -> Strategy:
        config = self.speculation.config
        if self.speculation.thresholds.calibrated and len(self.models) > 1:
            config = replace(config, threshold_target=self._resolve(0, params))
            if len(self.models) > 2 and config.mode == "fuzzy":
                config = replace(config, threshold_qualifier=self._resolve(1, params))
        return self.speculation.strategy(self.models, config, self.datastore)

    def _resolve(self, verifier: int, params: SamplingParams) -> float:
        thresholds = self.speculation.thresholds
        threshold = thresholds.target if verifier == 0 else thresholds.qualifier
        key = CalibrationKey(
            divergence=self.speculation.config.divergence,
            proposer=ModelId.of(self.models[verifier + 1]),
            verifier=ModelId.of(self.models[verifier]),
            warps=params.warps,
        )
        return threshold.resolve(self.calibrations, key)
