"""Opens GGUF files, in one piece or in shards, without their weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint, fingerprint_of
from outrider.models.checkpoints.gguf.ends import end_tokens
from outrider.models.checkpoints.gguf.header import MAGIC, Header, damaged, read_header
from outrider.models.checkpoints.gguf.names import FACTORS, LONG, SHORT, from_gguf
from outrider.models.checkpoints.gguf.rotary import Factors
from outrider.models.checkpoints.gguf.settings import architecture_of, read_settings
from outrider.models.checkpoints.gguf.tensors import GgufTensor
from outrider.models.checkpoints.json_file import is_there
from outrider.models.checkpoints.limits import CheckpointLimits
from outrider.models.checkpoints.tensors import TensorInfo

SUFFIX = ".gguf"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_EMBEDDINGS = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_FACTORS = {FACTORS: "plain", SHORT: "short", LONG: "long"}
_REORDERED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


def find_gguf(place: Path) -> Path | None:
    """Return the GGUF file (of several shards the first) that `place` is or holds, or None.

    A folder with config.json is a Hugging Face folder, whatever else it holds. Files of image
    encoders (`mmproj...`) are not models.

    Raises:
        CheckpointError: the folder holds several models.
    """
    if place.is_file() or (place.suffix.lower() == SUFFIX and not place.is_dir()):
        return _first_shard(place) if _is_gguf(place) else None
    if not place.is_dir() or is_there(place / "config.json"):
        return None
    files = sorted(f for f in place.glob(f"*{SUFFIX}") if not f.name.startswith("mmproj"))
    models = sorted({_first_shard(file) for file in files})
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise CheckpointError(
            f"{place} holds {len(models)} GGUF models: {names:.300}", hint="Give one of the files"
        )
    return models[0] if models else None


def _is_gguf(file: Path) -> bool:
    if file.suffix.lower() == SUFFIX:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _first_shard(file: Path) -> Path:
    found = _SHARD.fullmatch(file.name)
    return file if found is None else file.with_name(f"{found[1]}-00001-of-{found[3]}{SUFFIX}")


def _shards(file: Path) -> list[Path]:
    found = _SHARD.fullmatch(file.name)
    if found is None:
        return [file]
    count = int(found[3])
    if not 1 <= int(found[2]) <= count:
        raise CheckpointError(
            f"{file} is named as part {int(found[2])} of {count}", hint="Rename it, or download it"
        )
    shards = [
        file.with_name(f"{found[1]}-{i:05}-of-{found[3]}{SUFFIX}") for i in range(1, count + 1)
    ]
    for shard in shards:
        if not is_there(shard):
            raise CheckpointError(
                f"{shard} is missing, one of {count} parts of the model", hint="Download it"
            )
    return shards


def open_gguf(file: Path) -> Checkpoint:
    """Read a GGUF file, or all shards of one, without the weights.

    Raises:
        CheckpointError: the file is damaged, or what it holds is not supported.
    """
    headers = [read_header(shard) for shard in _shards(file)]
    _check_parts(headers)
    metadata = headers[0].metadata
    tensors, factors = _tensors(headers, metadata)
    biased = {
        name.removeprefix("model.layers.0.").removesuffix(".bias")
        for name in tensors
        if name.endswith(".bias")
    }
    embeddings = tensors.get(_EMBEDDINGS)
    if embeddings is None or len(embeddings.shape) != 2:
        raise CheckpointError(
            f"{file} has no matrix token_embd.weight",
            hint="Give a file with weights and not only a vocabulary",
        )
    config = read_settings(
        str(file),
        metadata,
        vocabulary=embeddings.shape[0],
        biased=biased,
        tied=_HEAD not in tensors,
        factors=factors,
    )
    ends = end_tokens(str(file), metadata, vocabulary=config["vocab_size"])
    return Checkpoint(
        path=file,
        config=config,
        generation={"eos_token_id": ends} if ends else {},
        tensors=tensors,
        fingerprint=fingerprint_of(config, tensors),
    )


def _check_parts(headers: Sequence[Header]) -> None:
    """Compare what the files say about the parts of the model with the files that are there."""
    held = sum(len(header.entries) for header in headers)
    for number, header in enumerate(headers):
        for key, expected in (("count", len(headers)), ("no", number), ("tensors.count", held)):
            found = header.metadata.get(f"split.{key}", expected)
            if found != expected and not (key == "count" and found == 0 and len(headers) == 1):
                raise CheckpointError(
                    f"{header.file} has split.{key} {found!r:.40}, but it is part {number + 1} of "
                    f"{len(headers)} with {held} tensors in all",
                    hint="Give all parts their original names, NAME-00001-of-0000N.gguf",
                )


def _tensors(
    headers: list[Header], metadata: Mapping[str, object]
) -> tuple[dict[str, TensorInfo], Factors]:
    """Return the tensors by their Hugging Face names, and the factors of rotary embeddings."""
    first = str(headers[0].file)
    known = architecture_of(first, metadata)
    architecture = metadata["general.architecture"]
    found: dict[str, TensorInfo] = {}
    factors = Factors()
    for header in headers:
        for name, entry in header.entries.items():
            tensor = GgufTensor(file=header.file, entry=entry)
            if name in _FACTORS:
                setattr(factors, _FACTORS[name], _factors(tensor))
                continue
            ours = from_gguf(name, known.parts)
            if ours is None or ours in found:
                what = "an unexpected tensor" if ours is None else "a second tensor"
                raise CheckpointError(f"{header.file} has {what} {name!r:.100}")
            part = name.split(".")[2] if name.count(".") > 2 else ""
            if known.reordered and part in _REORDERED:
                tensor = replace(tensor, heads=_heads(metadata, f"{architecture}.", part))
            found[ours] = TensorInfo(
                file=header.file,
                name=name,
                dtype=tensor.kind,
                shape=entry.shape,
                offset=entry.offset,
                nbytes=entry.nbytes,
                stored=tensor,
            )
    return found, factors


def _factors(tensor: GgufTensor) -> list[float]:
    """Return the factors of the pairs of a head."""
    shape = tensor.entry.shape
    if len(shape) != 1 or shape[0] > CheckpointLimits.current().head_dim:
        raise damaged(tensor.file, f"{tensor.entry.name} has the shape {list(shape)}")
    return tensor.read().tolist()


def _heads(metadata: Mapping[str, object], prefix: str, part: str) -> int:
    """Return the number of heads of queries or keys; 0 if the setting is wrong (checked later)."""
    all_heads = metadata.get(f"{prefix}attention.head_count")
    heads = metadata.get(prefix + _REORDERED[part], all_heads)
    return heads if isinstance(heads, int) and heads > 0 else 0
