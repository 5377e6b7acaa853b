"""`outrider.load`: from names and numbers to a `Generator`."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.errors import CheckpointError, OptionError, reject_unknown
from outrider.engine.datastores import open_datastore
from outrider.engine.generator import Generator, ModelDefaults
from outrider.engine.long_inputs import context_config, limited, selecting, shared_ranker
from outrider.guidance.guided import check_scale, guide
from outrider.models.checkpoints.checkpoint import open_checkpoint
from outrider.models.checkpoints.defaults import sampling_defaults
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import check_vocabularies
from outrider.models.loading import (
    check_adapter,
    families_folder,
    family,
    load_model,
    local_folder,
    resolve_device,
    resolve_dtype,
    tokenizer_for,
)
from outrider.models.memory import Demand, plan_memory
from outrider.sampling import SamplingParams
from outrider.strategy import PyramidConfig, tier_names
from outrider.strategy.calibration import Calibration, load_calibrations
from outrider.strategy.recipe import Cascade, Recipe, Thresholds

NO_TIER = "none"
"""Given as a qualifier or draft, it leaves that tier of a family out."""

PLANNED_CONTEXT = 4096
"""Tokens a text may grow to in the memory plan, where the user names no context."""

_CONTEXT_LENGTH = Range(2, optional=True, hint="Leave room for a prompt and an answer")


def load(
    target: Any = "tiny",
    *,
    qualifier: Any = None,
    draft: Any = None,
    mode: str = "exact",
    drafter: str = "auto",
    num_speculative_tokens: int | None = None,
    num_qualified_tokens: int | None = None,
    tree: str | None = None,
    num_draft_nodes: int | None = None,
    datastore: str | Path | None = None,
    divergence: str = "js",
    threshold_qualifier: float | str | None = None,
    threshold_target: float | str | None = None,
    max_changed: float | None = None,
    dtype: str = "auto",
    device: str = "auto",
    context_length: int | None = None,
    context: Any = None,
    context_on: str = "target",
    guidance: float = 1.0,
    adapter: str | Path | None = None,
    calibration: str | Path | None = None,
    threads: int | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    **unknown: object,
) -> Generator:
    """Load models and build a generator.

    Args:
        target: a family that ships with the package (`"tiny"`), a folder, a hub name, or a built
            model. A family brings its qualifier and draft model along.
        qualifier: the middle model; a list, largest first, for deeper cascades; `"none"` to leave
            a family's out.
        draft: the smallest model; likewise.
        mode: `exact`, `distribution`, `assisted`, `fuzzy` or `none`; see `strategy.MODES`.
        drafter: `auto`, `lookup`, `recycling`, `model`, ...; see `catalogue.KINDS`, or
            `outrider drafters`. `auto` needs no draft model. Where a mode other than `exact` or a
            length below is given, it means the draft model and every qualifier, at fixed lengths.
        num_speculative_tokens: what the draft model drafts at once, always. In mode `exact`, when
            neither length is given, lengths follow costs measured here and acceptance tracked
            while writing; elsewhere the default is 5.
        num_qualified_tokens: what the qualifier collects before the target is called; likewise,
            the default is 10.
        tree: how the draft model grows trees: one of `catalogue.TREES`; None drafts chains.
        num_draft_nodes: tokens of a tree, for drafters of trees; likewise, the default is 16.
        datastore: what `outrider datastore build` wrote, for the drafters `rest` and `sam`.
        divergence: what the fuzzy rules measure.
        threshold_qualifier: the qualifier's tolerance: a divergence, or a share of positions to
            accept such as `"80%"`, looked up in a calibration.
        threshold_target: the target's tolerance, likewise.
        max_changed: most changed tokens, as a share of the tokens written.
        dtype: of the weights: `auto`, `int8`, `float32`, `bfloat16`, `float16`, `float64`. `auto`
            is bfloat16 on CUDA; on the CPU int8 if that costs less than 1 % of loss, or float32.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        context_length: most tokens of prompt and answer together.
        context: a `ContextConfig`, or a mapping of its fields: what is read of long inputs
            (`Generator.generate(..., context=...)`); None reads everything.
        context_on: `target`: every tier reads a selection. The text is then that of the selected
            target, which is what `mode` promises to keep. `drafters`: the target reads everything,
            and the text does not change.
        guidance: how far the target's choices are pushed towards what its images make likelier
            than it would be unseen (classifier-free guidance; `guidance/guided.py`); 1 is none.
            Each text is read twice. The guided text is what `mode` promises to keep.
        adapter: the folder of a LoRA adapter of the target, in peft's format.
        calibration: a file written by `outrider calibrate`; a family brings its own.
        threads: CPU threads; None measures what is best for each model (and leaves PyTorch's
            choice where PyTorch runs it).
        tokenizer: for built targets; it speaks for every tier without a tokenizer of its own.
        trust_remote_code: run Python that comes with a checkpoint.
        **unknown: refused, each with the nearest name above.

    Raises:
        OutriderError: before any weight is read wherever the problem can be seen that early.
    """
    reject_unknown("option", unknown, OPTIONS)
    thresholds = Thresholds.parse(mode, threshold_qualifier, threshold_target)
    config = PyramidConfig(
        mode=mode,
        **_given(
            num_speculative_tokens=num_speculative_tokens,
            num_qualified_tokens=num_qualified_tokens,
            max_changed=max_changed,
        ),
        divergence=divergence,
        threshold_qualifier=thresholds.plain_qualifier,
        threshold_target=thresholds.plain_target,
    )
    _CONTEXT_LENGTH.check("context_length", context_length)
    check_scale(guidance)
    if threads is not None:
        _use_threads(threads)
    lengths = (num_speculative_tokens, num_qualified_tokens, num_draft_nodes)
    recipe = Recipe(
        drafter=drafter,
        config=config,
        fixed=mode != "exact" or any(length is not None for length in lengths),
        tree=tree,
        nodes=num_draft_nodes,
    )
    tiers = recipe.tiers(_sources(target, qualifier, draft, mode))
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    check_adapter(tiers[0][1], adapter)
    tiers = [(name, _wrapped(name, source)) for name, source in tiers]
    demands = [_demand(name, source, kind) for name, source in tiers]
    recipe.check(len(tiers))
    reading = context_config(context, context_on, len(tiers) - 1)
    demands = limited(demands, reading, context_on)
    if guidance != 1.0:  # two texts for each
        demands[0] = replace(demands[0], cache=2 * demands[0].cache)
    plan_memory(demands, context=context_length or PLANNED_CONTEXT, device=place)
    trust = {"trust_remote_code": trust_remote_code}
    how: dict[str, Any] = {"dtype": dtype, "device": place, "threads": threads} | trust
    given = tokenizer_for(tokenizer, **trust)
    codec, *others = [tokenizer_for(source, **trust) or given for _, source in tiers]
    codec = given or codec
    recipe = replace(recipe, datastore=open_datastore(drafter, datastore, codec))
    ranker = shared_ranker(reading)
    adapters = [adapter, *[None] * len(others)]  # the target alone has one
    models = [
        load_model(source, name=_called(name, source), adapter=own, **how)
        for (name, source), own in zip(tiers, adapters, strict=True)
    ]
    for (name, _), other, model in zip(tiers[1:], others, models[1:], strict=True):
        check_vocabularies(codec, other, models[0], model, name)
    known = _calibrations(calibration, target) if thresholds.calibrated else []
    models[0] = guide(models[0], guidance)
    models = selecting(models, reading, context_on, ranker)
    cascade = Cascade(tuple(models), recipe, thresholds, tuple(known))
    return Generator(
        cascade.strategy if thresholds.calibrated else cascade.strategy(SamplingParams()),
        tokenizer=codec,
        defaults=ModelDefaults(
            end_ids=models[0].info.end_ids,
            sampling=sampling_defaults(models[0].info.generation_defaults),
        ),
        mode=mode if drafter != "none" else "none",
        context_length=context_length,
        context=reading,
    )


def target_tokenizer(target: str | Path) -> Tokenizer:
    """The tokenizer of a target as `load` takes it, without reading a weight.

    Raises:
        CheckpointError: there is no such model, or it has no tokenizer.
    """
    source = family(str(target))["target"] if _is_family(target) else local_folder(target)
    open_checkpoint(source)
    found = tokenizer_for(source)
    if found is None:
        raise CheckpointError(
            f"{source} has no tokenizer",
            hint="Copy tokenizer.json and tokenizer_config.json of the original model into it",
        )
    return found


OPTIONS = tuple(name for name in inspect.signature(load).parameters if name != "unknown")
"""Names of what `load` takes."""


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _use_threads(threads: int) -> None:
    AT_LEAST_ONE.check("threads", threads)
    torch.set_num_threads(threads)


def _sources(target: Any, qualifier: Any, draft: Any, mode: str) -> list[tuple[str, Any]]:
    """Name and source of each tier, target first."""
    if _is_family(target):
        tiers = family(target)
        target = tiers["target"]
        qualifier = tiers.get("qualifier") if qualifier is None else qualifier
        draft = tiers.get("draft") if draft is None else draft
    found: list[tuple[str, Any]] = [("target", target)]
    if mode == "none":
        return found
    given: list[Any] = list(qualifier) if isinstance(qualifier, list | tuple) else [qualifier]
    middle = [source for source in given if source is not None and source != NO_TIER]
    found += list(zip(tier_names(len(middle)), middle, strict=True))
    if draft is not None and draft != NO_TIER:
        found.append(("draft", draft))
    return found


def _is_family(source: Any) -> bool:
    if not isinstance(source, str) or Path(source).expanduser().exists():
        return False
    return (families_folder() / source / "target").is_dir()


def _wrapped(tier: str, source: Any) -> Any:
    """A folder or hub name as it is, a built model ready to run: it costs no memory to do so."""
    if isinstance(source, str | Path):
        return source
    return load_model(source, name=_called(tier, source))


def _called(tier: str, source: Any) -> str:
    """How errors call a model: its tier, and its folder or class where that says more."""
    own = Path(source).name if isinstance(source, str | Path) else type(source).__name__
    return tier if own == tier else f"{tier} ({own})"


def _demand(tier: str, source: Any, dtype: torch.dtype) -> Demand:
    """What a tier will take, before its weights are read. Raises for what is no checkpoint."""
    if isinstance(source, str | Path):
        return Demand.of_checkpoint(tier, open_checkpoint(local_folder(source)), dtype)
    return Demand.of_model(tier, source)


def _calibrations(path: str | Path | None, target: Any) -> list[Calibration]:
    if path is None and _is_family(target):
        path = families_folder() / target / "calibration.json"
    if path is None or not Path(path).expanduser().is_file():
        raise OptionError(
            "a threshold is given as a share of positions, and there is no calibration"
            + (f" at {path}" if path is not None else ""),
            hint="Run `outrider calibrate` and give its file, or give the threshold as a number",
        )
    return load_calibrations(Path(path).expanduser())
