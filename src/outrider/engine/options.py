"""The options of `load` in groups; `load` documents the fields."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard, cast

from outrider.context.config import ContextConfig
from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.errors import OptionError
from outrider.engine.long_inputs import GivenSelection, context_config
from outrider.guidance.recipe import Recipe
from outrider.kernels.forking import use_torch_threads
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.devices import check_cache_dtype
from outrider.models.loading import ModelSource, TokenizerSource
from outrider.models.sources.families import families_folder, family
from outrider.models.wrappers.skipping import check_speedup
from outrider.strategy.guiding import GivenGuidance, recipe_of
from outrider.strategy.making import GivenKvPolicy, make_kv_policy
from outrider.strategy.modes import tier_names

NO_TIER = "none"
"""Value of `qualifier` or `draft` that leaves this tier of a family out."""

PLANNED_CONTEXT = 4096
"""Tokens of a text in the memory plan, if the user gives no context length."""

_CONTEXT_LENGTH = Range(
    2, optional=True, hint="Give at least 2: one token for the prompt and one for the answer"
)


_DRAFT_VOCABULARY = Range(1, optional=True, hint="Give at least one token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Options that name the models."""

    target: ModelSource = "tiny"
    qualifier: ModelSource | Sequence[ModelSource] | None = None
    draft: ModelSource | None = None
    draft_vocabulary: int | None = None
    adapter: str | Path | None = None
    tokenizer: TokenizerSource = None
    trust_remote_code: bool = False
    control_tokens: bool = False

    def __post_init__(self) -> None:
        _DRAFT_VOCABULARY.check("draft_vocabulary", self.draft_vocabulary)

    def sources(self, undrafted: bool) -> list[tuple[str, ModelSource]]:
        """Return name and source of each tier, target first; a family fills in tiers not given."""
        target, qualifier, draft = self.target, self.qualifier, self.draft
        if is_family(target):
            tiers = family(target)
            target = tiers["target"]
            qualifier = tiers.get("qualifier") if qualifier is None else qualifier
            draft = tiers.get("draft") if draft is None else draft
        found: list[tuple[str, ModelSource]] = [("target", target)]
        if undrafted:
            return found
        given = _several(qualifier)
        middle = [source for source in given if source is not None and source != NO_TIER]
        found += list(zip(tier_names(len(middle)), middle, strict=True))
        if draft is not None and draft != NO_TIER:
            found.append(("draft", draft))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """Policies of the caches: which rows of a text they keep.

    Attributes:
        target: of the target; None: all rows are kept.
        drafts: of every model below the target.
    """

    target: KvPolicy | None = None
    drafts: KvPolicy | None = None

    @classmethod
    def of(
        cls,
        kv_policy: GivenKvPolicy = None,
        kv_budget: float | None = None,
        draft_kv_policy: GivenKvPolicy = None,
        draft_kv_budget: float | None = None,
    ) -> "Caching":
        """Read the options of `load`. Raises `OptionError` as `make_kv_policy`."""
        return cls(
            target=make_kv_policy(kv_policy, kv_budget),
            drafts=make_kv_policy(draft_kv_policy, draft_kv_budget, "draft_kv"),
        )

    def of_tier(self, number: int) -> KvPolicy | None:
        """Return the policy of a tier, counted from the target."""
        return self.drafts if number else self.target

    def check(self, below: int) -> None:
        """Raise `OptionError` if a policy is given for draft models, and there are none.

        Args:
            below: number of models below the target, without draft heads.
        """
        if self.drafts is not None and not below:
            raise OptionError(
                f"draft_kv_policy is {self.drafts}, and no draft model runs below the target",
                hint="Give a draft model, or kv_policy for the target",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Options for where and how models run.

    Raises:
        OptionError: a number out of range.
    """

    dtype: str = "auto"
    cache_dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    context_length: int | None = None
    caching: Caching = field(default_factory=Caching)

    def __post_init__(self) -> None:
        check_cache_dtype(self.cache_dtype)
        _CONTEXT_LENGTH.check("context_length", self.context_length)
        if self.threads is not None:
            AT_LEAST_ONE.check("threads", self.threads)

    def use_threads(self) -> None:
        """Set the number of PyTorch threads, if the user gives one."""
        if self.threads is not None:
            use_torch_threads(self.threads)

    @property
    def planned_context(self) -> int:
        """Tokens that a text may have in the memory plan."""
        return self.context_length or PLANNED_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Options for what models read: selection, guidance, layer skipping and a coprocessor.

    Raises:
        OptionError: a number out of range, or a coprocessor beside another one of these.
    """

    selection: GivenSelection = None
    selection_on: str = "target"
    guidance: GivenGuidance = 1.0
    layer_skipping: float = 1.0
    coprocessor: str | Path | None = None

    def __post_init__(self) -> None:
        recipe = recipe_of(self.guidance)
        check_speedup(self.layer_skipping)
        others = recipe is not None or self.layer_skipping != 1.0 or self.selection is not None
        if self.coprocessor is not None and others:
            raise OptionError(
                "a coprocessor is trained for the plain target, but a selection, guidance or layer "
                "skipping changes what the target reads",
                hint="Leave out one of the two",
            )

    @property
    def recipe(self) -> Recipe | None:
        """The guidance method; None without guidance."""
        return recipe_of(self.guidance)

    def config(self, below: int) -> ContextConfig | None:
        """Parse the selection; None if everything is read.

        Args:
            below: number of models below the target.
        """
        return context_config(self.selection, self.selection_on, below)


def _several(sources: ModelSource | Sequence[ModelSource] | None) -> Sequence[ModelSource | None]:
    """Convert one source or several to a list."""
    if isinstance(sources, list | tuple):
        return list(sources)
    return [cast("ModelSource | None", sources)]


def is_family(source: ModelSource) -> TypeGuard[str]:
    """Whether `source` names a family that ships with the package."""
    if not isinstance(source, str) or Path(source).expanduser().exists():
        return False
    return (families_folder() / source / "target").is_dir()
