"""Replaces the several tensors of each quantised matrix by one that reads itself."""

from collections.abc import Collection, Mapping
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import check_fields
from outrider.models.checkpoints.packed.awq import AWQ
from outrider.models.checkpoints.packed.bitsandbytes import BITSANDBYTES
from outrider.models.checkpoints.packed.compressed import COMPRESSED
from outrider.models.checkpoints.packed.gptq import GPTQ
from outrider.models.checkpoints.packed.parts import Format, Parts, Settings
from outrider.models.checkpoints.tensors import TensorInfo

FORMATS: Mapping[str, Format] = {
    "gptq": GPTQ,
    "awq": AWQ,
    "compressed-tensors": COMPRESSED,
    "bitsandbytes": BITSANDBYTES,
}
"""`quant_method` of `quantization_config` -> how its tensors are read."""

_KEY = "quantization_config"
_UNNAMED = (".qweight", ".weight_packed", ".quant_map")


def settings_of(config: Mapping[str, JsonValue]) -> Settings:
    """Return `quantization_config` of config.json or of its text part; empty if there is none."""
    text = config.get("text_config")
    inner = text.get(_KEY) if isinstance(text, Mapping) else None
    return config.get(_KEY) or inner or {}


def method_of(settings: Settings) -> str:
    """Return the name of the method, such as `gptq`."""
    if named := settings.get("quant_method"):
        return str(named)
    four = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    return "bitsandbytes" if four else "an unknown method"


def refusal(config: Mapping[str, JsonValue]) -> str | None:
    """Return why the quantised weights of a checkpoint are not supported.

    None if they are, or if none are quantised.

    Raises:
        FieldError: a field of `quantization_config` holds a wrong value.
    """
    settings = settings_of(config)
    if not settings:
        return None
    method = method_of(settings)
    known = FORMATS.get(method)
    if known is None:
        names = ", ".join(FORMATS)
        return f"weights quantised with {method:.40} are not supported; supported: {names}"
    check_fields("config.json", settings, known.fields, f"{_KEY}.")
    return known.refusal(settings)


def with_matrices(
    folder: Path, config: Mapping[str, JsonValue], tensors: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Return the tensors with one `X.weight` instead of the parts of each quantised matrix.

    Tensors of methods that are not supported stay as they are.

    Raises:
        CheckpointError: a part is missing, or does not fit the others or config.json.
    """
    settings = settings_of(config)
    if not settings:
        _refuse_unnamed(folder, tensors)
        return tensors
    if refusal(config) is not None:
        return tensors
    method = method_of(settings)
    how = FORMATS[method]
    modules = _modules(tensors, how.parts)
    if not modules:
        raise CheckpointError(
            f"{folder / 'config.json'} names {method} in {_KEY}, but no tensor is quantised",
            hint=f"Remove {_KEY} from the file if the weights are plain numbers",
        )
    read = how.reader(settings, list(modules), str(folder / "config.json"))
    found = [read(parts) for parts in modules.values()]
    used = {f"{parts.module}.{part}" for parts in modules.values() for part in parts.infos}
    rest = {
        name: info
        for name, info in tensors.items()
        if name not in used and name.rpartition(".")[2] not in how.dropped
    }
    for info in found:
        if info.name in rest:
            raise CheckpointError(
                f"{folder} holds {info.name} both quantised and as plain numbers",
                hint="Remove one of them",
            )
    return rest | {info.name: info for info in found}


def _modules(tensors: Mapping[str, TensorInfo], own: Collection[str]) -> dict[str, Parts]:
    """Return the parts of each quantised module, by its name."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        for part in own:
            if name.endswith(f".{part}"):
                found.setdefault(name.removesuffix(f".{part}"), {})[part] = info
    for module, infos in found.items():
        plain = tensors.get(f"{module}.weight")
        if plain is not None and not any(part in infos for part in ("qweight", "weight_packed")):
            infos["weight"] = plain
    return {module: Parts(module, infos) for module, infos in found.items()}


def _refuse_unnamed(folder: Path, tensors: Collection[str]) -> None:
    """Refuse packed weights whose form config.json does not give."""
    packed = next((name for name in tensors if name.endswith(_UNNAMED)), None)
    if packed is not None:
        raise CheckpointError(
            f"{folder} holds quantised weights ({packed}), but config.json has no {_KEY}",
            hint=f"Put the content of quantize_config.json or quant_config.json there as {_KEY}",
        )
