"""The models of a run: located, cost-scaled if requested, loaded once, shared by all strategies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from outrider.bench.scaling.plan import make_plan
from outrider.bench.scaling.scale import cost_scale, cost_scaled_label, scaled_decoder
from outrider.bench.settings import Models
from outrider.bench.strategies import Named
from outrider.core.errors import OptionError, OutriderError
from outrider.engine.build import guided_target
from outrider.engine.generator import Generator
from outrider.engine.load import load
from outrider.engine.options import NO_TIER, Runtime
from outrider.engine.options import Models as GivenModels
from outrider.guidance.recipe import Recipe
from outrider.kernels.forking import use_torch_threads
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.compressing import with_kv_policy
from outrider.models.devices import resolve_device, resolve_dtype
from outrider.models.loading import load_model, tokenizer_for
from outrider.models.sources.families import families_folder, family
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel
from outrider.strategy.guiding import recipe_of

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One model of the run.

    Attributes:
        name: target, qualifier or draft.
        source: its source, as a user would name it.
        folder: the checkpoint that runs; the scaled one if it was written.
        build: the plan for scaling `folder` while it is loaded; None runs it unchanged.
        label: label of all figures of a cost-scaled model; None for other models.
        parameters: number of its weights.
        weight_bytes: bytes read by one forward: every weight once. Of an embedding that is not also
            the head, only a few rows are read, which are not counted.
    """

    name: str
    source: str
    folder: Path
    build: str | None
    label: str | None
    parameters: int
    weight_bytes: int
    fingerprint: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "source": self.source,
            "parameters": self.parameters,
            "cost_scale": self.label,
            "weight_bytes": self.weight_bytes,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Loaded models, and the builder of generators for them."""

    settings: Models
    tiers: Mapping[str, Tier]
    models: Mapping[str, LanguageModel]
    tokenizer: Tokenizer | None
    calibration: Path | None

    @property
    def dtype(self) -> str:
        """Dtype of the loaded target's weights."""
        return self.tiers["target"].dtype

    def build(self, strategy: Named) -> Generator:
        """Build the generator of one strategy. Prompts and results are token ids, without text.

        Raises:
            OptionError: `load` refuses the options; the message names the strategy.
        """
        options: dict[str, Any] = {"profile": "none", **strategy.options}
        tiers = {
            tier: self._given(tier, options.pop(tier, None)) for tier in ("qualifier", "draft")
        }
        if self.calibration is not None:
            options.setdefault("calibration", self.calibration)
        if self.settings.threads is not None:
            options["threads"] = self.settings.threads
        try:
            generator = load(
                self.models["target"],
                **{tier: model for tier, model in tiers.items() if model is not None},
                tokenizer=self.tokenizer,
                **options,
            )
        except OutriderError as error:
            raise OptionError(
                f"strategy {strategy.name!r}: {error.problem}", hint=error.hint
            ) from None
        generator.tokenizer = None
        return generator

    def _given(self, tier: str, wish: Any) -> Any:
        return NO_TIER if wish == NO_TIER else self.models.get(tier)


def find_tiers(
    settings: Models, scaled_into: Path, *, on_disk: bool | None = None
) -> dict[str, Tier]:
    """Find folder, size and fingerprint of each tier, before any weight is loaded.

    Args:
        settings: names of the models.
        scaled_into: folder for cost-scaled checkpoints; an existing one is reused.
        on_disk: whether to write them, which rivals and the CPU need; False makes them in memory
            when they are loaded; None writes them if the device is the CPU.

    Raises:
        OptionError: a scale is given for a missing tier, or is not a scale.
        CheckpointError: a folder holds no checkpoint.
    """
    sources = _sources(settings)
    scales = settings.scaled
    missing = next((tier for tier in scales if tier not in sources), None)
    if missing:
        raise OptionError(f"there is no {missing} to scale", hint=f"Give --{missing}")
    on_cpu = resolve_device(settings.device).type == "cpu"
    tiers: dict[str, Tier] = {}
    for name, source in sources.items():
        folder, scale = local_folder(source), scales.get(name)
        if scale and (on_cpu if on_disk is None else on_disk):
            out = scaled_into / f"{name}-{scale}"
            # on an accelerator, narrow layers are slow regardless of their number, so widen them
            folder, scale = cost_scale(folder, scale, out, widen=1 if on_cpu else None), None
        elif scale:
            make_plan(open_checkpoint(folder), scale, None)  # raises before the model is loaded
        tiers[name] = _tier(name, source, folder, scale, settings)
    return tiers


def open_models(settings: Models, tiers: Mapping[str, Tier]) -> OpenModels:
    """Load each tier once."""
    if settings.threads is not None:
        use_torch_threads(settings.threads)
    caching = settings.caching
    caching.check(len(tiers) - 1)
    models = {
        name: with_kv_policy(_load(tier, settings), caching.of_tier(int(name != "target")))
        for name, tier in tiers.items()
    }
    codec = tokenizer_for(tiers["target"].folder)
    if (recipe := recipe_of(settings.guidance or 1.0)) is not None:
        models["target"] = _guided(recipe, models["target"], codec, settings)
    known = families_folder() / settings.target / "calibration.json"
    return OpenModels(
        settings=settings,
        tiers={name: _as_loaded(tier, models[name]) for name, tier in tiers.items()},
        models=models,
        tokenizer=codec,
        calibration=known if known.is_file() else None,
    )


def weight_bytes(checkpoint: Checkpoint, dtype: str) -> int:
    """Return the bytes of weights that one forward reads in this dtype (int8: one byte per
    number).
    """
    numbers = checkpoint.num_parameters
    if _HEAD in checkpoint.tensors and not checkpoint.config.get("tie_word_embeddings", False):
        numbers -= checkpoint.tensors[_EMBEDDING].num_elements
    return numbers * _BYTES.get(dtype, 4)


def _load(tier: Tier, settings: Models) -> LanguageModel:
    if tier.build is None:
        return load_model(
            tier.folder,
            name=tier.name,
            dtype=settings.dtype,
            cache_dtype=settings.cache_dtype,
            device=settings.device,
            threads=settings.threads,
        )
    place = resolve_device(settings.device)
    return scaled_decoder(tier.folder, tier.build, place, resolve_dtype(settings.dtype, place))


def _guided(
    recipe: Recipe, target: LanguageModel, codec: Tokenizer | None, settings: Models
) -> LanguageModel:
    runtime = Runtime(
        dtype=settings.dtype,
        cache_dtype=settings.cache_dtype,
        device=settings.device,
        threads=settings.threads,
    )
    return guided_target(recipe, target, codec, GivenModels(), runtime)


def _as_loaded(tier: Tier, model: LanguageModel) -> Tier:
    """Update the tier with the dtype of the loaded model and the bytes that it reports."""
    info = model.info
    named = info.weights.partition(" ")[0]
    dtype = named or str(info.dtype or tier.dtype).removeprefix("torch.")
    if tier.build is not None:
        tier = replace(tier, label=info.name, parameters=info.num_parameters or tier.parameters)
    own = info.weight_bytes or weight_bytes(open_checkpoint(tier.folder), dtype)
    return replace(tier, dtype=dtype, weight_bytes=own)


def _named(source: str | Path) -> str:
    """Name a model of a family as `tiny/target`, any other model as given."""
    place = Path(source)
    inside = place.is_relative_to(families_folder())
    return str(place.relative_to(families_folder()) if inside else source)


def _sources(settings: Models) -> dict[str, str | Path]:
    """Return the folder or hub name of each tier."""
    is_family = (families_folder() / settings.target / "target").is_dir()
    if is_family and not Path(settings.target).expanduser().exists():
        sources: dict[str, str | Path] = {**family(settings.target)}
    else:
        sources = {"target": settings.target}
    for tier in ("qualifier", "draft"):
        wish = getattr(settings, tier)
        if wish == NO_TIER:
            sources.pop(tier, None)
        elif wish is not None:
            sources[tier] = wish
    return sources


def _tier(name: str, source: str | Path, folder: Path, build: str | None, settings: Models) -> Tier:
    checkpoint = open_checkpoint(folder)
    return Tier(
        name=name,
        source=_named(source),
        folder=folder,
        build=build,
        label=cost_scaled_label(folder),
        parameters=checkpoint.num_parameters,
        weight_bytes=weight_bytes(checkpoint, settings.dtype),
        fingerprint=f"{checkpoint.fingerprint}-{build}" if build else checkpoint.fingerprint,
        dtype=settings.dtype,
    )
