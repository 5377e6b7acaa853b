"""From names and numbers to a generator: tiers, defaults, thresholds, and early refusals."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.acceptance import Calibration, Fuzzy, ModelId, Subject, save_calibrations
from outrider.drafters import ModelDrafter, NoDrafter, Qualified
from outrider.engine.load import load
from outrider.errors import (
    CheckpointError,
    ContextError,
    MemoryPlanError,
    OptionError,
    OutriderError,
    VocabularyError,
)
from outrider.models.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.models.tokenizer import Tokenizer
from outrider.models.transformers import TransformersModel
from outrider.sampling import SamplingParams
from outrider.strategy import Strategy
from tests.engine.conftest import WINDOWS, Folders, Load
from tests.models.checkpoints import make_checkpoint, make_model


def tiers(strategy: Strategy) -> list[tuple[str, str]]:
    """Name and model of each tier inside, outermost first."""
    found, drafter = [], strategy.drafter
    while isinstance(drafter, Qualified):
        found.append((drafter.name, drafter.qualifier.name))
        drafter = drafter.drafter
    if isinstance(drafter, ModelDrafter):
        found.append((drafter.name, drafter.model.name))
    return found


# -- tiers -------------------------------------------------------------------------------------


def test_folders(loaded: Load) -> None:
    two, three, four = (loaded(n).strategy for n in (2, 3, 4))
    assert isinstance(two.target, Decoder) and two.target.dtype == torch.float64
    assert tiers(two) == [("draft", "draft")]
    assert tiers(three) == [("qualifier", "qualifier"), ("draft", "draft")]
    assert tiers(four)[:2] == [("qualifier", "qualifier"), ("qualifier2", "qualifier2")]
    assert (two.windows, three.windows, four.windows) == ((2,), (4, 2), (4, 3, 2))
    assert loaded(3).mode == "exact" and loaded(1).mode == "none"


def test_strings_and_paths(folders: Folders) -> None:
    generator = load(str(folders.target), draft=folders.draft, dtype="float32")
    assert isinstance(generator.strategy.target, Decoder)
    assert generator.strategy.target.dtype == torch.float32
    assert generator.tokenizer is not None and generator.tokenizer.encode("ab") == (97, 98)
    assert generator.generate("ab", max_new_tokens=3).completion_tokens == 3


def test_built_models(folders: Folders) -> None:
    target, draft = (make_model("llama", std=0.3, seed=0).double() for _ in range(2))
    codec = Tokenizer.load(folders.target)
    for tokenizer in (codec, codec.tokenizer):
        generator = load(target, draft=draft, tokenizer=tokenizer)
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


@pytest.mark.parametrize("nothing", [None, "none", [], ["none"]])
def test_two_tiers(folders: Folders, nothing: Any) -> None:
    strategy = load(folders.target, qualifier=nothing, draft=folders.draft).strategy
    assert tiers(strategy) == [("draft", "draft")]
    if nothing is not None:
        with pytest.raises(OptionError, match="mode 'exact' needs a draft model or a qualifier"):
            load(folders.target, qualifier=nothing, draft="none")


def test_mode_none_reads_the_target_alone(folders: Folders, tmp_path: Path) -> None:
    generator = load(folders.target, draft=tmp_path / "missing", mode="none")
    assert isinstance(generator.strategy.drafter, NoDrafter)
    result = generator.generate("ab", max_new_tokens=2)
    assert result.speculation.mode == "none" and result.speculation.stages == {}


@pytest.fixture
def family(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family `toy` of three tiers among those that ship."""
    for tier in ("target", "qualifier", "draft"):
        shutil.copytree(getattr(folders, tier), tmp_path / "toy" / tier)
    for room in ("outrider.models.loading", "outrider.engine.load"):
        monkeypatch.setattr(f"{room}.families_folder", lambda: tmp_path)
    return tmp_path / "toy"


@pytest.mark.usefixtures("family")
def test_a_family_brings_its_tiers(folders: Folders) -> None:
    both = [("qualifier", "qualifier"), ("draft", "draft")]
    assert tiers(load("toy").strategy) == both
    assert tiers(load("toy", qualifier="none").strategy) == both[1:]
    assert tiers(load("toy", draft="none").strategy) == [("draft", "qualifier")]
    assert tiers(load("toy", mode="none").strategy) == []
    deeper = load("toy", qualifier=[folders.qualifier, folders.small]).strategy
    assert len(tiers(deeper)) == 3
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


# -- thresholds --------------------------------------------------------------------------------


def calibrated(path: Path, verifier: Any, proposer: Any, top: float, **warps: float) -> Calibration:
    """Divergences spread evenly from 0 to `top`: "80%" is 0.8 top."""
    subject = Subject(
        divergence="js",
        proposer=ModelId.of(proposer),
        verifier=ModelId.of(verifier),
        warps=SamplingParams(**warps).warps,  # pyright: ignore[reportArgumentType]
    )
    calibration = Calibration.of(subject, torch.linspace(0, top, 1001, dtype=torch.float64))
    calibration.save(path)
    return calibration


@pytest.fixture
def models(loaded: Load) -> tuple[Any, Any, Any]:
    """Target, qualifier and draft model."""
    strategy = loaded(3).strategy
    assert isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.drafter
    assert isinstance(inner, ModelDrafter)
    return strategy.target, strategy.drafter.qualifier, inner.model


def thresholds(strategy: Strategy) -> list[float]:
    assert isinstance(strategy.rule, Fuzzy) and isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.rule
    return [strategy.rule.threshold, *([inner.threshold] if isinstance(inner, Fuzzy) else [])]


def test_a_share_is_looked_up(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    options = {"qualifier": qualifier, "draft": draft, "calibration": file}
    for share in ("80%", "accept=0.8"):
        generator = load(target, mode="assisted", threshold_target=share, **options)
        assert thresholds(generator.strategy) == [pytest.approx(0.4, abs=1e-3)]
    assert generator.generate([97, 98], max_new_tokens=6).speculation.exactness == "lossy"


def test_both_shares(models: Any, tmp_path: Path) -> None:
    """Thresholds below the defaults: nothing may be warned of that was never asked for."""
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.1)
    calibrated(file, qualifier, draft, 0.05)
    options = {"qualifier": qualifier, "draft": draft, "calibration": str(file), "mode": "fuzzy"}
    generator = load(target, threshold_target="80%", threshold_qualifier="50%", **options)
    assert thresholds(generator.strategy) == pytest.approx([0.08, 0.025], abs=1e-3)
    generator = load(target, threshold_target="80%", threshold_qualifier=0.01, **options)
    assert thresholds(generator.strategy) == pytest.approx([0.08, 0.01], abs=1e-3)
    generator = load(target, threshold_target=0.6, threshold_qualifier="100%", **options)
    assert thresholds(generator.strategy) == pytest.approx([0.6, 0.05], abs=1e-3)
    calibrated(file, target, qualifier, 0.6)
    generator = load(target, threshold_target="100%", threshold_qualifier=0.5, **options)
    assert thresholds(generator.strategy) == pytest.approx([0.6, 0.5], abs=1e-3)


def test_a_calibration_is_for_its_warps(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    calibrated(file, target, qualifier, 0.3, temperature=0.8)
    options = {"qualifier": qualifier, "draft": draft, "mode": "assisted"}
    generator = load(target, threshold_target="50%", calibration=file, **options)
    for temperature, expected in ((0.0, 0.25), (0.8, 0.15)):
        strategy = generator.strategy_for(SamplingParams(temperature=temperature))
        assert thresholds(strategy) == [pytest.approx(expected, abs=1e-3)]
    with pytest.raises(OptionError, match=r"calibration is for warps .*temperature=0\.7"):
        generator.generate([97], temperature=0.7, max_new_tokens=2)


def test_a_calibration_is_for_its_pair_and_divergence(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    options = {"mode": "assisted", "threshold_target": "50%", "calibration": file}
    with pytest.raises(OptionError, match=r"is for proposer qualifier \(.*, not draft \("):
        load(target, draft=draft, **options).generate([97])
    with pytest.raises(OptionError, match="is for verifier"):
        load(draft, draft=qualifier, **options).generate([97])
    with pytest.raises(OptionError, match="is for divergence js, not tv"):
        load(target, qualifier=qualifier, draft=draft, divergence="tv", **options).generate([97])


def test_a_share_needs_a_calibration(models: Any, tmp_path: Path) -> None:
    target, qualifier, _ = models
    for missing in (None, tmp_path / "missing.json"):
        with pytest.raises(OptionError, match="there is no calibration"):
            load(target, draft=qualifier, threshold_target="80%", calibration=missing)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("[]")
    with pytest.raises(OptionError, match="is not a calibration file"):
        load(target, draft=qualifier, threshold_target="80%", calibration=damaged)


def test_a_family_brings_its_calibration(family: Path, loaded: Load) -> None:
    strategy = loaded(3).strategy
    assert isinstance(strategy.drafter, Qualified)
    calibration = calibrated(
        family / "calibration.json", strategy.target, strategy.drafter.qualifier, 0.5
    )
    save_calibrations(family / "calibration.json", [calibration])
    generator = load("toy", mode="assisted", threshold_target="60%")
    assert thresholds(generator.strategy) == [pytest.approx(0.3, abs=1e-3)]


def test_plain_thresholds_and_budgets(folders: Folders) -> None:
    options: dict[str, Any] = {"qualifier": folders.qualifier, "draft": folders.draft, **WINDOWS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator = load(folders.target, mode="fuzzy", **options)
        assert thresholds(generator.strategy) == [0.4, 0.3]
        generator = load(
            folders.target,
            mode="fuzzy",
            threshold_target="0.2",
            threshold_qualifier=0.1,
            max_changed=0.25,
            divergence="tv",
            **options,
        )
    rule = generator.strategy.rule
    assert thresholds(generator.strategy) == [0.2, 0.1]
    assert isinstance(rule, Fuzzy) and (rule.max_changed, rule.measure.name) == (0.25, "tv")
    result = generator.generate("once", max_new_tokens=16)
    assert sum(result.changed) <= 4


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
        ({"context": 0}, "context is 0"),
    ],
)
def test_before_any_weight_is_read(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    monkeypatch.setattr("outrider.engine.load.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(OptionError) as refusal:
        load(folders.target, draft=folders.draft, **options)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_can_not_fit_is_refused_with_the_arithmetic(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.models.memory.available_memory", lambda _: 1 << 20)
    monkeypatch.setattr("outrider.engine.load.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(MemoryPlanError) as refusal:
        load(folders.target, draft=folders.draft, context=100)
    said = str(refusal.value)
    for term in ("target weights", "draft cache at 100 tokens", "1.0 MiB available on cpu"):
        assert term in said


def test_missing_folders(folders: Folders, tmp_path: Path) -> None:
    no = tmp_path / "no"
    missing: list[dict[str, Any]] = [{"draft": no}, {"qualifier": [folders.qualifier, no]}]
    for options in missing:
        with pytest.raises(CheckpointError, match="no model folder"):
            load(folders.target, **options)
    with pytest.raises(OptionError, match="a model can not be 3"):
        load(3, mode="none")


# -- the rest ----------------------------------------------------------------------------------


def test_a_context_limit(folders: Folders) -> None:
    generator = load(folders.target, draft=folders.draft, context=12)
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
