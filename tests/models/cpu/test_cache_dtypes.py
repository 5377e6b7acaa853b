"""Caches in bfloat16 and in 8 bits: what is stored, what attention reads, and what is chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider import kernels, load
from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.caches.bookkeeping import Run
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.cache import CACHE_DTYPES, NativeStorage
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.base import cache_layout
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.loading import load_model
from outrider.models.quality import LARGE_CACHE, SMALL_CACHE, Quality, cache_candidates
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, next_logits, random_ids

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

TEXT = random_ids(150)
BRIEF = ("bfloat16", "int8")
HEAD_DIMS = (10, 32, 40, 64)
"""Heads of less than one group, one, one and a part, and two."""


def loaded(path: Path, cache: str, dtype: torch.dtype = torch.float32) -> NativeDecoder:
    return NativeDecoder.load(path, dtype=dtype, cache_dtype=CACHE_DTYPES[cache], threads=1)


def rounded(x: torch.Tensor, cache: str) -> torch.Tensor:
    """What a cache keeps of keys or values `[..., head_dim]`, written independently."""
    if cache == "bfloat16":
        return x.bfloat16().float()
    parts = []
    for group in x.split(32, dim=-1):
        top = group.abs().amax(-1, keepdim=True)
        steps = torch.where(top > 0, 127 / top, 0)
        parts.append(torch.round(group * steps) * (top / 127))
    return torch.cat(parts, -1)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("cache", BRIEF)
def test_it_stores_the_rounded_keys_and_values(cache: str, head_dim: int, tmp_path: Path) -> None:
    """Those of the first layer do not depend on the cache itself."""
    path = make_checkpoint(tmp_path, "llama", head_dim=head_dim)
    exact, brief = (begin(loaded(path, name), TEXT) for name in ("float32", cache))
    for ours, theirs in ((brief.keys, exact.keys), (brief.values, exact.values)):
        assert torch.equal(ours[0], rounded(theirs[0], cache))
        assert not torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("cache", BRIEF)
def test_attention_reads_the_rounded_keys_and_values(
    cache: str, head_dim: int, tmp_path: Path
) -> None:
    """A float32 cache that holds the rounded numbers differs by the key of the row itself."""
    path = make_checkpoint(tmp_path, "llama", head_dim=head_dim)
    exact, brief = loaded(path, "float32"), loaded(path, cache)
    own, other = begin(exact, TEXT), begin(brief, TEXT)
    unrounded, wanted = next_logits(exact, begin(exact, TEXT)), next_logits(brief, other)
    with torch.inference_mode():
        blocks = own.storage.keys.transpose(3, 4)
        keys = blocks.flatten(2, 3).clone()
        keys[:, :, : own.length] = other.keys
        own.storage.keys.copy_(keys.view(blocks.shape).transpose(3, 4))
        own.storage.values[:, :, : own.length] = other.values
    found = next_logits(exact, own)
    assert (found - wanted).norm() < 0.1 * (unrounded - wanted).norm()


@pytest.mark.parametrize("cache", CACHE_DTYPES)
def test_rows_move_with_their_scales(cache: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama", head_dim=40)
    text = begin(loaded(path, cache), TEXT)
    before = [x.clone() for x in text.storage.first(149)]
    text.storage.move_run(text.storage, Run(3, 60, 20))
    for old, new in zip(before, text.storage.first(149), strict=True):
        assert torch.equal(new[:, :, 3:60], old[:, :, 20:77])
        assert torch.equal(new[:, :, :3], old[:, :, :3])
    other = NativeStorage(text.layout, 192)
    other.copy_rows(text.storage, 100)
    other.move_rows(text.storage, [7, 8, 120], 100)
    for old, new in zip(text.storage.first(149), other.first(103), strict=True):
        assert torch.equal(new[:, :, :100], old[:, :, :100])
        assert torch.equal(new[:, :, 100:], old[:, :, [7, 8, 120]])


def test_bytes_per_token(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama", head_dim=64)
    found = {name: loaded(path, name).info.bytes_per_token for name in CACHE_DTYPES}
    storages = {name: begin(loaded(path, name), TEXT).storage for name in CACHE_DTYPES}
    for name, storage in storages.items():
        tensors = storage.keys, storage.values, storage.key_scales, storage.value_scales
        assert sum(x.nbytes for x in tensors) == found[name] * storage.capacity
    assert found["bfloat16"] * 2 == found["float32"]
    assert found["int8"] * 32 == found["float32"] * 9  # 36 bytes for 32 numbers


def test_nan_in_a_cache_reaches_the_logits(tmp_path: Path) -> None:
    """A row of NaN is not hidden by rounding."""
    path = make_checkpoint(tmp_path, "llama")
    model = loaded(path, "int8")
    bad = torch.full((1, model.config.hidden_size), torch.nan)
    states = torch.cat((model.embed([1]), bad, model.embed([3])))
    prompt = Prompt(token_ids=(1, 2, 3), embeddings=states)
    [cache] = model.start([prompt])
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    assert rows.logits.isnan().all()


# -- the choice --------------------------------------------------------------------------------


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A checkpoint whose cache of a whole window is large."""
    return make_checkpoint(tmp_path / "long", "llama", max_position_embeddings=1 << 22)


def test_candidates(long: Path) -> None:
    checkpoint = open_checkpoint(long)
    assert cache_candidates(checkpoint, FORMATS["int8"]) == ("int8", "bfloat16")
    assert cache_candidates(checkpoint, FORMATS["stored"]) == ("int8", "bfloat16")
    assert cache_candidates(checkpoint, FORMATS["bfloat16"]) == ("bfloat16",)
    assert cache_candidates(checkpoint, FORMATS["float32"]) == ()
    one = cache_layout(read_config(checkpoint.config), torch.bfloat16).bytes_per_token
    for limit, more, fewer in (
        (LARGE_CACHE, ("int8", "bfloat16"), ("bfloat16",)),
        (SMALL_CACHE // 2, ("bfloat16",), ()),
    ):
        assert cache_candidates(checkpoint, FORMATS["stored"], limit // one + 1) == more
        assert cache_candidates(checkpoint, FORMATS["stored"], limit // one) == fewer


def test_auto_takes_the_smallest_cache_of_small_divergence(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(kl: dict[str, float], **options: Any) -> tuple[str, str]:
        def measured(_: Any, other: Any, __: Any, cache: str = "float32") -> Quality:
            return Quality(loss=2.0, kl=kl.get(cache, 0.001), agreement=0.9, tokens=8)

        monkeypatch.setattr("outrider.models.quality.quality_of", measured)
        info = load_model(long, device="cpu", **options).info
        return info.cache, info.weights_reason

    cache, reason = chosen({"int8": 0.004})
    assert cache == "int8" and "KL 0.0040" in reason
    assert chosen({"int8": 0.006})[0] == "bfloat16"
    assert chosen({"int8": 0.006, "bfloat16": 0.0051})[0] == "float32"
    assert chosen({}, context_length=64)[0] == "float32"
    assert chosen({}, dtype="float32") == ("float32", "as requested")
    assert chosen({}, dtype="int8") == ("int8", "as requested")
    assert chosen({"int8": 0.1, "bfloat16": 0.1}, dtype="int8")[0] == "bfloat16", "not measured"
    assert chosen({"int8": 0.1}, cache_dtype="int8")[0] == "int8", "a given dtype is taken"


def test_the_option_reaches_every_tier() -> None:
    generator = load("tiny", cache_dtype="bfloat16", dtype="int8", drafter="model", threads=1)
    assert generator.strategy.target.info.cache == "bfloat16"


def test_what_cannot_have_such_a_cache_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama")
    with pytest.raises(OptionError, match="unknown cache_dtype 'int9'"):
        load(path, cache_dtype="int9")
    with pytest.raises(OptionError, match="cache_dtype is 'int8'"):
        load_model(path, cache_dtype="int8", dtype="float64")


def test_text_does_not_depend_on_the_batch_or_the_drafter(tmp_path: Path) -> None:
    """Drafted equals undrafted with caches of 8 bits, on the family that ships."""
    prompts = ["Once upon a time", "A list of numbers: 1, 2, 3, 4, 1, 2, 3, 4, 1, 2"]
    plain = load("tiny", mode="none", dtype="int8", cache_dtype="int8", threads=1)
    expected = [plain.generate(p, max_new_tokens=40).token_ids for p in prompts]
    for drafter in ("lookup", "model", "recycling"):
        drafted = load("tiny", drafter=drafter, dtype="int8", cache_dtype="int8", threads=1)
        found = drafted.generate(prompts, max_new_tokens=40)
        assert [result.token_ids for result in found] == expected


def layout(config: DecoderConfig) -> Any:
    return cache_layout(config, torch.int8)


def test_groups_of_a_head(tmp_path: Path) -> None:
    for head_dim, groups in zip(HEAD_DIMS, (1, 1, 2, 2), strict=True):
        path = make_checkpoint(tmp_path / str(head_dim), "llama", head_dim=head_dim)
        assert layout(read_config(open_checkpoint(path).config)).groups == groups


@pytest.mark.parametrize("cache", CACHE_DTYPES)
def test_empty_slots_are_zeros(cache: str, tmp_path: Path) -> None:
    """Kernels compute with whole blocks of keys; denormal numbers would slow them down."""
    layout = begin(loaded(make_checkpoint(tmp_path, "llama"), cache), TEXT).layout
    torch.full((1 << 16,), 5, dtype=torch.int32)  # what is freed here may be reused
    storage = NativeStorage(layout, 64)
    assert not storage.keys.any() and not storage.key_scales.any()


def test_the_first_check_says_what_it_measures(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("outrider.models.quality.SMALL_CACHE", 0)
    for expected in (True, False):
        caplog.clear()
        with caplog.at_level("INFO", logger="outrider"):
            load_model(long, device="cpu", context_length=64)
        assert ("measuring weights int8-channels" in caplog.text) is expected
