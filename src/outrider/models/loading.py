"""Loads models from folders, hub names, families or built models."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Union

import torch

from outrider import kernels
from outrider.core.errors import CheckpointError, OptionError, OutriderWarning
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.packed.reading import method_of, settings_of
from outrider.models.checkpoints.tokenizer import Tokenizer, has_tokenizer
from outrider.models.compressing import with_kv_policy
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cuda import decoder_for
from outrider.models.denoisers.loading import is_denoiser, load_denoiser
from outrider.models.denoisers.next_token import NextToken
from outrider.models.devices import check_cache_dtype, resolve_device, resolve_dtype
from outrider.models.llama.decoder import Decoder, supports
from outrider.models.llama.lora import Adapter, add_to_modules, with_adapter
from outrider.models.llama.text_stack import TextStack, text_stack
from outrider.models.quality import choose
from outrider.models.sources.finding import local_folder
from outrider.models.vision.loading import shows_images, with_vision
from outrider.protocols import LanguageModel

if TYPE_CHECKING:
    import transformers

ModelSource = Union[str, Path, LanguageModel, "transformers.PreTrainedModel"]
"""A folder or hub name, a model of Outrider, or a built model of transformers."""

TokenizerSource = Union[ModelSource, Tokenizer, "transformers.PreTrainedTokenizerBase", None]
"""A folder or hub name, or a tokenizer; built models have no tokenizer."""


class FallbackWarning(OutriderWarning):
    """A model uses a runner that is correct but slower than the requested one."""


def load_model(
    source: ModelSource,
    *,
    name: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
    threads: int | None = None,
    adapter: str | Path | None = None,
    cache_dtype: str = "auto",
    context_length: int | None = None,
    kv_policy: KvPolicy | None = None,
) -> LanguageModel:
    """Load the model that `source` names.

    Folders that `Decoder` supports run there; others run through `transformers`, with one
    `FallbackWarning` that gives the reason. An image-text model runs as its text stack after its
    vision encoder (`VisionLanguageModel`), or without it, with one `BlindWarning` that gives the
    reason.

    Args:
        source: a folder, a hub name, a built `transformers` model (which keeps its dtype and
            device), or a `LanguageModel`, which is returned as it is.
        name: its name in errors and reports, such as the tier; None uses the folder's name.
        dtype: dtype of the weights, see `resolve_dtype`.
        device: see `resolve_device`.
        trust_remote_code: run Python that comes with the checkpoint.
        threads: CPU threads of the compiled runner; None measures the best number.
        adapter: the folder of a LoRA adapter that is added to the weights; see `llama/lora.py`.
        cache_dtype: dtype of keys and values: `auto`, `float32`, `bfloat16` or `int8`. Other than
            `auto`, it needs the compiled runner; `auto` elsewhere is the dtype of the weights.
        context_length: most tokens of a text, for which `auto` chooses the dtype of the cache; None
            is the window of the model.
        kv_policy: which rows of a text caches keep; None keeps all. A built model shares its
            weights with the result. See `with_kv_policy`.

    Raises:
        OptionError: an unknown or missing dtype or device; an adapter, a dtype of the cache or a
            policy for a model that cannot have one.
        CheckpointError: the checkpoint cannot be read, or no runner can run it; the adapter is for
            another model.
    """
    check_adapter(source, adapter)
    check_cache_dtype(cache_dtype)
    if not isinstance(source, str | Path):
        return with_kv_policy(_wrap(source, name), kv_policy)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    checkpoint = open_checkpoint(local_folder(source))
    if is_denoiser(checkpoint):
        return _denoiser(checkpoint, name, dtype, place, threads, (adapter, cache_dtype, kv_policy))
    added = None if adapter is None else Adapter.load(adapter)
    if added is not None:
        checkpoint = with_adapter(checkpoint, added)
    vision_model, trust = shows_images(checkpoint), {"trust_remote_code": trust_remote_code}
    text = text_stack(checkpoint) if vision_model else _whole(checkpoint)
    if text.checkpoint is None and checkpoint.path.is_file():
        raise CheckpointError(
            f"{checkpoint.path} cannot be run: {text.reason}",
            hint="Give the original checkpoint as a Hugging Face folder",
        )
    if text.checkpoint is None:
        _refuse_few_bits(checkpoint, str(text.reason))
        model = _through_transformers(checkpoint, kind, place, name, text.reason, added, **trust)
    elif place.type == "cpu":
        model = _on_cpu(text.checkpoint, dtype, name, threads, (cache_dtype, context_length))
    else:
        model = _on_device(text.checkpoint, kind, place, name)
    if cache_dtype != "auto" and model.info.cache != cache_dtype:
        _refuse_cache(cache_dtype, name or str(source))
    model = with_kv_policy(model, kv_policy)
    if not vision_model:
        return model
    called = name or str(source)
    return with_vision(model, checkpoint, dtype=kind, device=place, name=called, **trust)


def _denoiser(
    checkpoint: Checkpoint,
    name: str | None,
    dtype: str | torch.dtype,
    place: torch.device,
    threads: int | None,
    unused: tuple[str | Path | None, str, KvPolicy | None],
) -> LanguageModel:
    """Load a masked denoiser, as a model of the next token.

    Raises:
        OptionError: an option that denoisers do not have.
    """
    adapter, cache_dtype, kv_policy = unused
    given = {
        "an adapter": adapter is not None,
        f"cache_dtype {cache_dtype}": cache_dtype != "auto",
        "a policy of the cache": kv_policy is not None,
    }
    for what in (what for what, is_given in given.items() if is_given):
        raise OptionError(
            f"{what} is given, and {name or checkpoint.path} is a masked denoiser",
            hint="Leave it out",
        )
    return NextToken(
        load_denoiser(checkpoint, name=name, dtype=dtype, device=place, threads=threads)
    )


def check_adapter(source: ModelSource, adapter: str | Path | None) -> None:
    """Check that `adapter` fits the model that `source` names, without reading its weights.

    Raises:
        OptionError: the model is already built.
        CheckpointError: the adapter cannot be read, or is for another model.
    """
    if adapter is None:
        return
    if not isinstance(source, str | Path):
        raise OptionError(
            f"the adapter {adapter} cannot be added to a model that is already built",
            hint="Give the model's folder, or merge the adapter first",
        )
    with_adapter(open_checkpoint(local_folder(source)), Adapter.load(adapter))


def _whole(checkpoint: Checkpoint) -> TextStack:
    """Return a text model's checkpoint, or the reason why `Decoder` does not run it."""
    reason = supports(checkpoint.config)
    return TextStack(checkpoint if reason is None else None, reason)


def _on_device(
    checkpoint: Checkpoint, kind: torch.dtype, place: torch.device, name: str | None
) -> LanguageModel:
    if kind == torch.int8:
        called = name or str(checkpoint.path)
        kind = _without_int8(called, f"int8 runs on the CPU, not on {place}")
    elif stored := _packed_format(checkpoint):
        warnings.warn(
            f"{name or checkpoint.path} runs in {str(kind).removeprefix('torch.')}: its quantised "
            f"weights ({stored}) are decoded on {place}",
            FallbackWarning,
            stacklevel=3,
        )
    return decoder_for(place).load(checkpoint, dtype=kind, device=place, name=name)


def _packed_format(checkpoint: Checkpoint) -> str | None:
    """Return the format of quantised weights; None if all weights are plain numbers."""
    stored = (info.dtype for info in checkpoint.tensors.values() if info.stored is not None)
    return next((kind for kind in stored if kind not in ("F32", "F16", "BF16")), None)


def _through_transformers(
    checkpoint: Checkpoint,
    kind: torch.dtype,
    place: torch.device,
    name: str | None,
    reason: str | None,
    adapter: Adapter | None,
    *,
    trust_remote_code: bool,
) -> LanguageModel:
    """Load the model with `transformers`, and warn in one line with the reason."""
    from outrider.models.transformers.model import TransformersModel  # takes seconds to import

    brief = kind == torch.int8
    kind = torch.float32 if brief else kind
    model = TransformersModel.load(
        checkpoint.path, dtype=kind, device=place, name=name, trust_remote_code=trust_remote_code
    )
    if adapter is not None:
        add_to_modules(model.model, adapter, model.info.name)
        model = TransformersModel(
            model.model, name=model.info.name, fingerprint=checkpoint.fingerprint
        )
    warnings.warn(
        f"{name or checkpoint.path} runs through transformers{', in float32' if brief else ''}, "
        f"which is slower: {reason}",
        FallbackWarning,
        stacklevel=3,
    )
    return model


_FOUR_BIT = ("gptq", "awq", "hqq", "aqlm", "quip", "vptq", "auto-round", "spqr", "higgs")
"""Methods whose weights have four bits or fewer unless their configuration says otherwise."""


def _refuse_few_bits(checkpoint: Checkpoint, reason: str) -> None:
    """Raise `CheckpointError` for weights of four bits or fewer that `Decoder` does not run."""
    settings = settings_of(checkpoint.config)
    method = method_of(settings)
    four = settings.get("load_in_4bit") or settings.get("_load_in_4bit")
    bits = 4 if four or method in _FOUR_BIT else 16
    bits = settings.get("bits", settings.get("weight_bits", bits))
    if isinstance(bits, int) and bits <= 4:
        raise CheckpointError(
            f"{checkpoint.path} holds {bits}-bit weights ({method}) that cannot be run: {reason}",
            hint="Give the original checkpoint, with --dtype int8 on the CPU or bfloat16 on a GPU",
        )


def _refuse_cache(cache_dtype: str, name: str) -> NoReturn:
    raise OptionError(
        f"cache_dtype is {cache_dtype!r}, and {name} does not run in the compiled runner for the "
        "CPU, whose caches alone have another dtype than the weights",
        hint="Leave out cache_dtype",
    )


def _on_cpu(
    checkpoint: Checkpoint,
    dtype: str | torch.dtype,
    name: str | None,
    threads: int | None,
    cache: tuple[str, int | None],
) -> LanguageModel:
    """Load the compiled runner if it is available, else `Decoder`."""
    kind = resolve_dtype(dtype, torch.device("cpu"))
    called = name or str(checkpoint.path)
    if not kernels.available():
        if kind == torch.int8:
            kind = _without_int8(called, kernels.reason_missing())
        return Decoder.load(checkpoint, dtype=kind, name=name)
    spelled = str(dtype).removeprefix("torch.")
    if spelled not in ("auto", *FORMATS):
        return Decoder.load(checkpoint, dtype=kind, name=name)
    given = None if spelled == "auto" else FORMATS[spelled]
    cache_dtype, context_length = cache
    chosen = choose(
        checkpoint,
        given,
        cache=None if cache_dtype == "auto" else cache_dtype,
        context_length=context_length,
    )
    return NativeDecoder.load(
        checkpoint,
        dtype=chosen.format.dtype,
        cache_dtype=CACHE_DTYPES[chosen.cache],
        reason=chosen.reason or "as requested",
        name=name,
        threads=threads,
    )


def _without_int8(name: str, reason: str) -> torch.dtype:
    """Warn in one line why a model runs in float32 instead of int8."""
    warnings.warn(f"{name} runs in float32: {reason}", FallbackWarning, stacklevel=4)
    return torch.float32


def _wrap(source: Any, name: str | None) -> LanguageModel:
    """Return a built model as a `LanguageModel`, wrapped if needed."""
    if isinstance(source, LanguageModel):
        return source
    if not isinstance(source, torch.nn.Module) or not hasattr(source, "config"):
        raise OptionError(
            f"a model is {source!r:.60}",
            hint="Give a folder, a hub name, or a causal model of transformers",
        )
    from outrider.models.transformers.model import TransformersModel

    return TransformersModel(source, name=name)  # pyright: ignore[reportArgumentType]


def tokenizer_for(source: TokenizerSource, *, trust_remote_code: bool = False) -> Tokenizer | None:
    """Load the tokenizer of a folder or hub name, or wrap a built one; None if there is none.

    Raises:
        CheckpointError: its files are damaged, or the folder is missing.
    """
    if source is None or isinstance(source, Tokenizer):
        return source
    if isinstance(source, str | Path):
        folder = local_folder(source)
        if not has_tokenizer(folder):
            return None
        return Tokenizer.load(folder, trust_remote_code=trust_remote_code)
    if callable(getattr(source, "get_vocab", None)):
        built: Any = source
        return Tokenizer(built, name=getattr(built, "name_or_path", "") or "tokenizer")
    return None
