"""From names and numbers to a generator: tiers, defaults and early refusals."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import (
    CheckpointError,
    ContextError,
    MemoryPlanError,
    OptionError,
    OutriderError,
    VocabularyError,
)
from outrider.drafters import (
    Bypass,
    Fallback,
    Lookup,
    ModelDrafter,
    NoDrafter,
    Qualified,
    TokenRecycling,
)
from outrider.engine.load import load
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from outrider.strategy import Strategy
from tests.engine.conftest import Folders, Load
from tests.models.setups.make_checkpoints import make_checkpoint, make_model

pytestmark = pytest.mark.usefixtures("unchecked")


def tiers(strategy: Strategy) -> list[tuple[str, str]]:
    """Name and model of each tier inside, outermost first."""
    found, drafter = [], strategy.drafter
    if isinstance(drafter, Fallback):
        assert isinstance(drafter.first, Lookup)
        drafter = drafter.second
    if isinstance(drafter, Bypass):
        drafter = drafter.qualified
    while isinstance(drafter, Qualified):
        found.append((drafter.name, drafter.qualifier.info.name))
        drafter = drafter.drafter
    if isinstance(drafter, ModelDrafter):
        found.append((drafter.name, drafter.model.info.name))
    return found


# -- tiers -------------------------------------------------------------------------------------


def test_folders(loaded: Load) -> None:
    two, three, four = (loaded(n).strategy for n in (2, 3, 4))
    assert isinstance(two.target, Decoder) and two.target.dtype == torch.float64
    assert tiers(two) == [("draft", "draft")]
    assert tiers(three) == [("qualifier", "qualifier"), ("draft", "draft")]
    assert tiers(four)[:2] == [("qualifier", "qualifier"), ("qualifier2", "qualifier2 (small)")]
    assert (two.windows, three.windows, four.windows) == ((2,), (4, 2), (4, 3, 2))
    assert loaded(3).mode == "exact" and loaded(1).mode == "none"


def test_strings_and_paths(folders: Folders) -> None:
    generator = load(str(folders.target), draft=folders.draft, dtype="float32")
    assert isinstance(generator.strategy.target, NativeDecoder)
    assert generator.strategy.target.dtype == torch.float32
    assert generator.tokenizer is not None and generator.tokenizer.encode("ab") == (97, 98)
    assert generator.generate("ab", max_new_tokens=3).completion_tokens == 3


def test_built_models(folders: Folders) -> None:
    target, draft = (make_model("llama", std=0.3, seed=0).double() for _ in range(2))
    codec = Tokenizer.load(folders.target)
    for tokenizer in (codec, codec.tokenizer):
        generator = load(target, draft=draft, tokenizer=tokenizer, num_speculative_tokens=5)
        assert isinstance(generator.strategy.target, TransformersModel)
        result = generator.generate("ab", max_new_tokens=6)
        assert result.speculation.target.accepted == 5, "a model that drafts for itself"
    assert load(target, mode="none").generate([97, 98], max_new_tokens=6).token_ids == (
        result.token_ids
    )


def test_our_own_models() -> None:
    target = TabularModel.random(vocab_size=7)
    generator = load(target, draft=TabularModel.random(vocab_size=7, seed=1))
    assert generator.strategy.target is target and generator.tokenizer is None
    assert generator.generate([1, 2], max_new_tokens=4).completion_tokens == 4


def test_without_a_draft_model_the_qualifier_drafts(folders: Folders) -> None:
    strategy = load(folders.target, qualifier=folders.qualifier).strategy
    assert tiers(strategy) == [("draft", "qualifier")]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("nothing", [None, "none", [], ["none"]])
def test_two_tiers(folders: Folders, nothing: Any) -> None:
    strategy = load(folders.target, qualifier=nothing, draft=folders.draft).strategy
    assert tiers(strategy) == [("draft", "draft")]
    if nothing is not None:
        with pytest.raises(OptionError, match="needs a draft model or a qualifier"):
            load(folders.target, qualifier=nothing, draft="none", mode="fuzzy")
        alone = load(folders.target, qualifier=nothing, draft="none").strategy
        assert isinstance(alone.drafter, Fallback), "no model is needed to draft"
        assert isinstance(alone.drafter.second, TokenRecycling)


def test_mode_none_reads_the_target_alone(folders: Folders, tmp_path: Path) -> None:
    generator = load(folders.target, draft=tmp_path / "missing", mode="none")
    assert isinstance(generator.strategy.drafter, NoDrafter)
    result = generator.generate("ab", max_new_tokens=2)
    assert result.speculation.mode == "none" and result.speculation.stages == {}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("family")
def test_a_family_brings_its_tiers(folders: Folders) -> None:
    both = [("qualifier", "qualifier"), ("draft", "draft")]
    assert tiers(load("toy").strategy) in (both, both[1:]), "the qualifier takes part if it pays"
    assert tiers(load("toy", drafter="pyramid").strategy) == both
    assert tiers(load("toy", drafter="model").strategy) == both[1:]
    assert tiers(load("toy", num_qualified_tokens=7).strategy) == both
    assert tiers(load("toy", qualifier="none").strategy) == both[1:]
    assert tiers(load("toy", draft="none").strategy) == [("draft", "qualifier")]
    assert tiers(load("toy", mode="none").strategy) == []
    deeper = load("toy", qualifier=[folders.qualifier, folders.small], drafter="pyramid")
    assert len(tiers(deeper.strategy)) == 3
    with pytest.raises(OutriderError):
        load("toi")


def test_tiers_of_another_vocabulary(folders: Folders, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", vocab_size=300)
    with pytest.raises(VocabularyError, match="288 logits, the draft model 300"):
        load(folders.target, draft=other)
    with pytest.raises(VocabularyError, match="the qualifier2 model 300"):
        load(folders.target, qualifier=[folders.qualifier, other], draft=folders.draft)


# -- what a checkpoint recommends --------------------------------------------------------------


def recommending(path: Path, **settings: Any) -> Path:
    return make_checkpoint(path, std=0.3, tokenizer=True, generation=settings)


def test_sampling_defaults_are_honoured_and_overridden(tmp_path: Path) -> None:
    path = recommending(
        tmp_path,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=9,
        eos_token_id=[256, 5],
    )
    generator = load(path, mode="none")
    params = generator.params()
    assert (params.temperature, params.top_p, params.max_new_tokens) == (0.7, 0.9, 9)
    assert generator.defaults.end_ids == (256, 5)
    params = generator.params(temperature=0.0, max_new_tokens=4)
    assert (params.temperature, params.top_p, params.max_new_tokens) == (0.0, 0.9, 4)
    result = generator.generate("ab", seed=1)
    assert result.completion_tokens <= 9
    assert result.token_ids == generator.generate("ab", seed=1, temperature=0.7).token_ids
    assert result.token_ids != generator.generate("ab", temperature=0.0).token_ids


def test_warps_without_do_sample_are_not_used(tmp_path: Path) -> None:
    path = recommending(tmp_path, do_sample=False, temperature=0.7, repetition_penalty=1.2)
    params = load(path, mode="none").params()
    assert (params.temperature, params.repetition_penalty) == (0.0, 1.2)


def test_all_end_tokens_end_the_text(tmp_path: Path) -> None:
    plain = load(make_checkpoint(tmp_path / "0", std=0.3, tokenizer=True), mode="none")
    text = plain.generate("ab", max_new_tokens=12).token_ids
    end = text[5]
    first = text.index(end) + 1
    path = recommending(tmp_path / "1", eos_token_id=[256, end])
    generator = load(path, draft=path)
    result = generator.generate("ab", max_new_tokens=12)
    assert (result.token_ids, result.finish_reason) == (text[:first], "stop")
    assert generator.generate("ab", max_new_tokens=12, ignore_eos=True).token_ids == text


# -- refused early -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "exakt"}, "unknown mode 'exakt'. Did you mean 'exact'?"),
        ({"threshold_target": "much"}, "threshold is 'much'"),
        ({"threshold_target": "120%"}, "the share to accept is 1.2"),
        ({"divergence": "jss", "mode": "fuzzy"}, "unknown divergence 'jss'"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens is 0"),
        ({"max_changed": 0.1}, "mode 'exact' changes no token"),
        ({"dtype": "float12"}, "unknown dtype 'float12'"),
        ({"device": "cup"}, "unknown device 'cup'"),
        ({"threads": 0}, "threads is 0"),
        ({"treads": 2}, "unknown option 'treads'. Did you mean 'threads'?"),
        ({"context_length": 0}, "context_length is 0"),
    ],
)
def test_before_any_weight_is_read(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(OptionError) as refusal:
        load(folders.target, draft=folders.draft, **options)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_can_not_fit_is_refused_with_the_arithmetic(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.models.memory.available_memory", lambda _: 1 << 20)
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(MemoryPlanError) as refusal:
        load(folders.target, draft=folders.draft, context_length=100)
    said = str(refusal.value)
    for term in ("target weights", "draft cache at 100 tokens", "1.0 MiB available on cpu"):
        assert term in said


def test_missing_folders(folders: Folders, tmp_path: Path) -> None:
    no = tmp_path / "no"
    missing: list[dict[str, Any]] = [{"draft": no}, {"qualifier": [folders.qualifier, no]}]
    for options in missing:
        with pytest.raises(CheckpointError, match="no model folder"):
            load(folders.target, **options)
    with pytest.raises(CheckpointError, match="no model folder"):
        load(no)  # before it says that a draft model is missing, too
    with pytest.raises(OptionError, match="a model is 3"):
        load(3, mode="none")


@pytest.mark.usefixtures("family")
def test_a_word_that_is_nearly_a_family() -> None:
    with pytest.raises(CheckpointError, match=r"toyy is neither .*Did you mean 'toy'\?"):
        load("toyy")


def test_built_models_take_room_for_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []
    monkeypatch.setattr("outrider.engine.build.plan_memory", lambda d, **_: planned.extend(d))
    target = load(make_model("llama"), mode="none").strategy.target
    assert isinstance(target, TransformersModel)
    assert [d.cache for d in planned] == [
        target.info.bytes_per_token
    ] and target.info.bytes_per_token > 0


def test_one_tokenizer_speaks_for_built_models(folders: Folders) -> None:
    """Their logits may be padded to different widths, but not cut."""
    target, draft = make_model("llama"), make_model("llama", vocab_size=320)
    codec = Tokenizer.load(folders.target)
    load(target, draft=draft, tokenizer=codec)
    with pytest.raises(VocabularyError, match="Give tokenizer="):
        load(target, draft=draft)
    with pytest.raises(VocabularyError, match=r"the tokenizer has .* entries, too many"):
        load(target, draft=make_model("llama", vocab_size=64), tokenizer=codec)


def test_errors_call_a_model_by_tier_and_folder(folders: Folders) -> None:
    built = load(folders.small, draft=make_model("llama")).strategy
    assert built.target.info.name == "target (small)"
    assert tiers(built) == [("draft", "draft (LlamaForCausalLM)")]


def test_remote_code_is_trusted_for_tokenizers_too(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted: list[bool] = []
    monkeypatch.setattr(
        "outrider.engine.build.tokenizer_for",
        lambda _, trust_remote_code=False: trusted.append(trust_remote_code),
    )
    load(folders.target, draft=folders.draft, trust_remote_code=True)
    assert trusted and all(trusted)


# -- the rest ----------------------------------------------------------------------------------


def test_a_context_limit(folders: Folders) -> None:
    generator = load(folders.target, draft=folders.draft, context_length=12)
    assert generator.generate("12345678", max_new_tokens=99, ignore_eos=True).completion_tokens == 4
    with pytest.raises(ContextError, match="limited to 12"):
        generator.generate("123456789012")


def test_threads(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    load(folders.target, mode="none")
    assert asked == []
    load(folders.target, mode="none", threads=2)
    assert asked == [2]


def test_messages_without_a_template(folders: Folders, tmp_path: Path) -> None:
    path = tmp_path / "bare"
    shutil.copytree(folders.target, path)
    (path / "chat_template.jinja").unlink()
    with pytest.raises(OptionError, match="has no chat template"):
        load(path, mode="none").generate([{"role": "user", "content": "hi"}])


def test_samples_and_batches(folders: Folders) -> None:
    generator = load(folders.target, draft=folders.draft, num_speculative_tokens=2)
    got = generator.generate(["one", "two"], n=2, temperature=1.0, seed=1, max_new_tokens=5)
    assert [len(group) for group in got] == [2, 2]
    assert len({r.token_ids for group in got for r in group}) == 4
