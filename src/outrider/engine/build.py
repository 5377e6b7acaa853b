"""Builds a `Generator` from groups of options; refuses invalid options before it reads weights."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from outrider.core.checks import shown
from outrider.core.errors import OptionError, OutriderWarning, VocabularyError
from outrider.diffusion.rule import Diffusion
from outrider.engine.denoisers.choosing import DENOISED, Groups, rule_for
from outrider.engine.drafts.foreign import is_foreign, with_tokens
from outrider.engine.generation_config.fields import unfollowed
from outrider.engine.generator import Generator
from outrider.engine.heads.choosing import (
    check_alone,
    head_demand,
    load_head,
    shipped_folders,
    shipped_head,
    take_head,
)
from outrider.engine.learners.learning import Learning
from outrider.engine.long_inputs import limited, selecting, shared_ranker
from outrider.engine.options import Caching, Models, Reading, Runtime, is_family
from outrider.engine.requests import ModelDefaults
from outrider.guidance.recipe import Recipe
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.checkpoints.defaults import sampling_defaults
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import check_vocabularies
from outrider.models.compressing import shape_of, under_policy
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.reduced import first_tokens, with_vocabulary
from outrider.models.devices import resolve_device, resolve_dtype
from outrider.models.heads.loading import HeadPair
from outrider.models.latents.augmented import AugmentedModel
from outrider.models.latents.coprocessor import Coprocessor
from outrider.models.loading import ModelSource, check_adapter, load_model, tokenizer_for
from outrider.models.memory import Demand, plan_memory, planned_dtype
from outrider.models.sources.families import families_folder
from outrider.models.sources.finding import local_folder
from outrider.models.wrappers.skipping import skipping
from outrider.protocols import LanguageModel
from outrider.sampling import SamplingParams
from outrider.strategy.calibration import Calibration, load_calibrations
from outrider.strategy.datastores import open_datastore
from outrider.strategy.guiding import guided
from outrider.strategy.making import GivenDenoising
from outrider.strategy.recipe import Cascade, Speculation
from outrider.strategy.strategy import Strategy

Tiers = Sequence[tuple[str, ModelSource]]
"""Name and source of each tier, target first."""


def build(
    models: Models,
    speculation: Speculation,
    runtime: Runtime,
    reading: Reading,
    learning: Learning,
    denoising: GivenDenoising = None,
) -> Generator:
    """Check the options, plan memory, load the models and build a generator. Raises
    `OutriderError`.
    """
    runtime.use_threads()
    rule = rule_for(denoising, Groups(models, speculation, runtime, reading, learning))
    if rule is not None:
        return _denoiser(models, runtime, rule)
    tiers = speculation.tiers(models.sources(speculation.mode == "none"))
    tiers, head = take_head(tiers)
    device = resolve_device(runtime.device)
    dtype = resolve_dtype(runtime.dtype, device)
    check_adapter(tiers[0][1], models.adapter)
    runtime.caching.check(len(tiers) - 1)
    tiers = [(name, _wrapped(name, source)) for name, source in tiers]
    policies = [runtime.caching.of_tier(number) for number in range(len(tiers))]
    if models.adapter is not None:  # the fingerprint, which gates name, is not known yet
        policies[0] = None
    demands = [
        _demand(name, source, runtime, dtype, policy)
        for (name, source), policy in zip(tiers, policies, strict=True)
    ]
    selection = reading.config(len(tiers) - 1)
    recipe = reading.recipe
    changes = recipe is not None or reading.layer_skipping != 1.0 or selection is not None
    coprocessor = _coprocessor(reading.coprocessor, models, tiers[0][1])
    changes = changes or coprocessor is not None
    if head is not None:
        check_alone(head, changes)
    ships = len(tiers) == 1 and head is None and models.draft is None and not changes
    ships = ships and speculation.drafts_freely and bool(shipped_folders())
    speculation.check_tiers(len(tiers) + (head is not None or ships))
    learning.check(len(tiers), models.draft_vocabulary, speculation.named)
    demands = limited(demands, selection, reading.selection_on)
    if recipe is not None:
        demands[0] = replace(demands[0], texts=recipe.readings)
        demands += [_demand(*role, runtime, dtype) for role in _roles(recipe)]
    if coprocessor is not None:
        weights = _demand("coprocessor", tiers[0][1], runtime, dtype)
        demands.append(replace(weights, cache=0))  # it reads the target's
    if head is not None:
        demands.append(head_demand(head))
    plan_memory(demands, context=runtime.planned_context, device=device)
    codec, others = _tokenizers(models, tiers)
    foreign = bool(others) and is_foreign(codec, others[-1], speculation, tiers[-1][0])
    learning.check_shared(foreign, models.draft_vocabulary)
    store = open_datastore(speculation.named, speculation.datastore, codec and codec.fingerprint)
    ranker = shared_ranker(selection)
    own = {} if models.adapter is None else {tiers[0][0]: models.adapter}
    loaded = _loaded(models, tiers, runtime, device, own, runtime.caching)
    for (name, _), other, model in zip(tiers[1:], others, loaded[1:], strict=True):
        if not (foreign and model is loaded[-1]):
            check_vocabularies(codec, other, loaded[0], model, name)
    if models.draft_vocabulary is not None:
        loaded[-1] = _reduced(loaded, tiers, models.draft_vocabulary)
    calibrated = speculation.thresholds.calibrated
    known = _calibrations(speculation.calibration, models.target) if calibrated else []
    pair: HeadPair | None = None
    if head is not None:
        pair = load_head(head, loaded[0], codec)
    elif ships:
        pair = shipped_head(loaded[0], codec)
    if pair is not None:
        loaded = [pair.target, *loaded[1:], pair.head]
    speculation.check_tiers(len(loaded))
    learner = learning.learner(tiers[-1][1], loaded[-1])
    loaded[0] = skipping(loaded[0], reading.layer_skipping)
    if coprocessor is not None:
        adapted = {"coprocessor": coprocessor.folder}
        [other] = _loaded(models, [("coprocessor", tiers[0][1])], runtime, device, adapted)
        loaded[0] = AugmentedModel(loaded[0], other, coprocessor.soft, coprocessor.scale)
    if recipe is not None:
        loaded[0] = guided_target(recipe, loaded[0], codec, models, runtime)
    loaded = selecting(loaded, selection, reading.selection_on, ranker)
    if foreign:
        size = loaded[0].info.vocab_size
        loaded[-1] = with_tokens(loaded[-1], others[-1], codec, size)
    cascade = Cascade(tuple(loaded), speculation, tuple(known), store, learner)
    return Generator(
        cascade.strategy if calibrated else cascade.strategy(SamplingParams()),
        tokenizer=codec,
        defaults=_defaults(loaded[0], codec),
        mode=speculation.label,
        guard=speculation.guard,
        context_length=_context_length(runtime.context_length, loaded[0]),
        selection=selection,
        guidance=recipe,
    )


def _denoiser(models: Models, runtime: Runtime, rule: Diffusion) -> Generator:
    """Load a masked denoiser, and build a generator that writes with a commit rule."""
    device = resolve_device(runtime.device)
    tiers = [(name, _wrapped(name, source)) for name, source in models.sources(undrafted=True)]
    dtype = resolve_dtype(runtime.dtype, device)
    demands = [_demand(name, source, runtime, dtype) for name, source in tiers]
    plan_memory(demands, context=runtime.planned_context, device=device)
    codec, _ = _tokenizers(models, tiers)
    [target] = _loaded(models, tiers, runtime, device, {})
    return Generator(
        Strategy(target=target, denoising=rule),
        tokenizer=codec,
        defaults=_defaults(target, codec),
        mode=DENOISED,
        context_length=_context_length(runtime.context_length, target),
    )


def _coprocessor(
    folder: str | Path | None, models: Models, target: ModelSource
) -> Coprocessor | None:
    """Read a coprocessor, and check that it fits the target, without reading weights of that.

    Raises:
        OptionError: the target is already built, or has an adapter.
        CheckpointError: files are missing or damaged, or were trained for another model.
    """
    if folder is None:
        return None
    found = Coprocessor.read(folder)
    if models.adapter is not None:
        raise OptionError(
            f"the coprocessor {folder} is trained for the target without an adapter, and there is "
            f"one: {models.adapter}",
            hint="Leave out one of the two",
        )
    check_adapter(target, found.folder)
    assert isinstance(target, str | Path)  # an adapter is refused elsewhere
    found.check_made_for(open_checkpoint(local_folder(target)).fingerprint, str(target))
    return found


def _roles(recipe: Recipe) -> list[tuple[str, ModelSource]]:
    """Return the models of a guidance method, with the names of their roles."""
    return [(role, _wrapped(role, source)) for role, source in recipe.models().items()]


def guided_target(
    recipe: Recipe,
    target: LanguageModel,
    codec: Tokenizer | None,
    models: Models,
    runtime: Runtime,
) -> LanguageModel:
    """Load the other models of a guidance method, and build the guided target.

    Raises:
        OutriderError: a model cannot be loaded, or its vocabulary is not that of the target.
    """
    roles, device = _roles(recipe), resolve_device(runtime.device)
    others = _loaded(models, roles, runtime, device, recipe.adapters())
    for (role, source), model in zip(roles, others, strict=True):
        own = tokenizer_for(source, trust_remote_code=models.trust_remote_code) or codec
        try:
            check_vocabularies(codec, own, target, model, role)
        except VocabularyError as error:
            hint = "Give a model with the tokenizer of the target"
            raise VocabularyError(error.problem, hint=hint) from None
    named = {role: model for (role, _), model in zip(roles, others, strict=True)}
    return guided(recipe, target, named, codec)


def _reduced(loaded: Sequence[LanguageModel], tiers: Tiers, count: int) -> LanguageModel:
    """Return the draft model with a smaller vocabulary.

    Raises:
        OptionError: there is none, or it does not run in the compiled runner.
    """
    draft = loaded[-1]
    is_draft = len(loaded) == len(tiers) and tiers[-1][0] == "draft"
    if not is_draft or not isinstance(draft, NativeDecoder):
        found = f"{draft.info.name} is not one" if len(loaded) > 1 else "there is no draft model"
        raise OptionError(
            f"draft_vocabulary is {count}, which needs a draft model that runs in the compiled "
            f"runner for the CPU, and {found}",
            hint="Leave out draft_vocabulary, or give draft=...",
        )
    ids = first_tokens(count, draft.info.vocab_size, loaded[0].info.end_ids)
    return with_vocabulary(draft, ids)


def _defaults(model: LanguageModel, codec: Tokenizer | None) -> ModelDefaults:
    """Read the defaults of the target; name in one line what is set and not followed."""
    config = model.info.generation_defaults
    if ignored := unfollowed(config, model.info.guidance is not None):
        values = ", ".join(f"{name}={config[name]!r:.40}" for name in ignored)
        warnings.warn(
            f"the generation_config of {model.info.name} sets {values}, which Outrider does not "
            "follow",
            OutriderWarning,
            stacklevel=4,
        )
    sampling = sampling_defaults(config)
    if codec is None:
        sampling.pop("stop", None)
    return ModelDefaults(end_ids=model.info.end_ids, sampling=sampling, generation_config=config)


def _context_length(given: int | None, target: LanguageModel) -> int | None:
    """Return the limit on prompt and answer: not more than the target reads."""
    info = target.info
    if given is None or given <= info.context_length:
        return given
    reason = f" ({info.context_reason})" if info.context_reason else ""
    warnings.warn(
        f"context_length is {shown(given)}, and {info.name} reads at most {info.context_length} "
        f"tokens{reason}: {info.context_length} are used",
        OutriderWarning,
        stacklevel=4,
    )
    return info.context_length


def _tokenizers(models: Models, tiers: Tiers) -> tuple[Tokenizer | None, list[Tokenizer | None]]:
    """Load the target's tokenizer and those of the other tiers.

    A tokenizer given by the user serves all tiers that have none.
    """
    trust = models.trust_remote_code
    given = tokenizer_for(models.tokenizer, trust_remote_code=trust)
    own, *others = [tokenizer_for(source, trust_remote_code=trust) or given for _, source in tiers]
    codec = given or own
    if codec is not None and models.control_tokens:
        codec.control_tokens = True
    return codec, others


def _loaded(
    models: Models,
    tiers: Tiers,
    runtime: Runtime,
    device: torch.device,
    adapters: Mapping[str, str | Path],
    caching: Caching = Caching(),  # noqa: B008
) -> list[LanguageModel]:
    """Load the models, largest first, with the adapters and the policies of their tiers."""
    return [
        load_model(
            source,
            name=called(name, source),
            adapter=adapters.get(name),
            dtype=runtime.dtype,
            cache_dtype=runtime.cache_dtype,
            context_length=runtime.context_length,
            device=device,
            threads=runtime.threads,
            trust_remote_code=models.trust_remote_code,
            kv_policy=caching.of_tier(number),
        )
        for number, (name, source) in enumerate(tiers)
    ]


def _wrapped(tier: str, source: ModelSource) -> ModelSource:
    """Wrap a built model so that its memory can be planned; a folder or hub name stays as it is.

    Wrapping a built model takes no extra memory.
    """
    if isinstance(source, str | Path):
        return source
    return load_model(source, name=called(tier, source))


def called(tier: str, source: ModelSource) -> str:
    """Name a model in error messages: the tier, and its folder or class if they differ."""
    own = Path(source).name if isinstance(source, str | Path) else type(source).__name__
    return tier if own == tier else f"{tier} ({own})"


def _demand(
    tier: str,
    source: ModelSource,
    runtime: Runtime,
    dtype: torch.dtype,
    policy: KvPolicy | None = None,
) -> Demand:
    """Estimate the memory of a tier before its weights are read.

    Raises an error if the source is not a checkpoint.
    """
    if isinstance(source, str | Path):
        checkpoint = open_checkpoint(local_folder(source))
        planned = planned_dtype(checkpoint, runtime.dtype, dtype)
        demand = Demand.of_checkpoint(tier, checkpoint, planned, runtime.cache_dtype)
        return under_policy(demand, policy, policy and shape_of(checkpoint))
    return Demand.of_model(tier, load_model(source))


def _calibrations(path: str | Path | None, target: ModelSource) -> list[Calibration]:
    if path is None and is_family(target):
        path = families_folder() / target / "calibration.json"
    if path is None or not Path(path).expanduser().is_file():
        raise OptionError(
            "a threshold is given as a share of positions, and there is no calibration"
            + (f" at {path}" if path is not None else ""),
            hint="Run `outrider calibrate` and give its file, or give the threshold as a number",
        )
    return load_calibrations(Path(path).expanduser())
