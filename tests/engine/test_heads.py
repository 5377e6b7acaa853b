"""Heads through `load`: the text stays the target's, and wrong combinations are refused."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider.context import ContextConfig
from outrider.core.errors import OptionError, OutriderError, StrategyError
from outrider.engine.heads import choosing as heads
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.sources.families import family
from outrider.policies import FixedTree
from outrider.strategy.auto import head_drafter
from outrider.training.heads.kinds.clover import fresh_clover
from outrider.training.heads.start import Teacher, fresh_head
from tests.models.heads.formats.setups import in_speculators, write
from tests.training.heads.setups import recipe

pytestmark = pytest.mark.usefixtures("unchecked")

KINDS = (
    pytest.param("hinted", marks=pytest.mark.method("hinted")),
    pytest.param("eagle3", marks=pytest.mark.method("eagle3")),
)
PROMPT = "Once upon a time there was a dog. Once upon a time there was"
WRITE: dict[str, Any] = {"max_new_tokens": 16, "seed": 3}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "penalties": {"temperature": 0.7, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
    "banned": {"temperature": 0.7, "banned_tokens": tuple(range(40, 400, 7))},
    "stop": {"stop": ("dog", ".")},
    "regex": {"regex": "(yes|no), [a-z ]{3,12}"},
}


def write_random(folder: Path, kind: str) -> Path:
    """An untrained head for the tiny family; hinted heads follow their hint at times."""
    torch.manual_seed(0)
    source = family("tiny")["target"]
    teacher = Teacher.of(open_checkpoint(source))
    layers, vocab = teacher.config.num_layers, teacher.config.vocab_size
    ids = torch.arange(0, vocab, 3).int().numpy()
    states = {"hinted": (1, 2, layers), "eagle3": (0, 1, layers - 1)}.get(kind, (layers,))
    successors = torch.arange(vocab).roll(-1).numpy()
    parts = {"sampling": True, "alignment": True} if kind == "fspad" else {}
    if kind == "clover":
        config, tensors = fresh_clover(teacher, layers, ids, recipe("clover", random=True))
    else:
        config, tensors = fresh_head(
            teacher, HeadKind(kind), states, ids, successors, random=True, **parts
        )
    if kind == "eagle3":
        rows = teacher.lm_head[torch.from_numpy(ids).long()]
        norms = torch.ones(len(states), config.target_width)
        tensors |= {"lm_head.weight": rows, "fc_norm.weight": norms}
    elif kind == "hinted":
        tensors["hint.weight"] = 9 * torch.eye(config.width)
    verifier = Verifier(name_or_path="tiny", tokenizer=Tokenizer.load(source).fingerprint)
    bits, rotary = None if kind == "eagle3" else 8, open_checkpoint(source).config
    write_head(folder, config, tensors, verifier, bits=bits, card="# A head", rotary=rotary)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("heads")
    kinds = ("hinted", "eagle3", "eagle1", "fspad", "clover")
    return {kind: write_random(root / kind, kind) for kind in kinds}


@pytest.fixture
def any_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained heads are accepted."""
    monkeypatch.setattr(heads, "check_head", lambda *_: None)


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[..., Any]:
    """`outrider.load` with one of the heads; each combination is loaded once."""

    @cache
    def loaded(kind: str, **options: Any) -> Any:
        return outrider.load("tiny", draft=folders[kind], threads=1, **options)

    return loaded


@cache
def undrafted() -> Any:
    return outrider.load("tiny", drafter="none", draft="none", threads=1)


@cache
def alone(sampling: str) -> tuple[int, ...]:
    return undrafted().generate(PROMPT, **WRITE, **SAMPLINGS[sampling]).token_ids


def named(drafter: str, kind: str) -> str:
    return drafter.replace("KIND", kind)


SIZE = FixedTree(depth=3, nodes=8)
"""The automatic sizes would soon stop drafting with an untrained head."""
DRAFTERS = ("KIND", "model", "tree(eagle2)", "fallback(suffix,KIND)")


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_text_is_the_targets(load: Callable[..., Any], kind: str, drafter: str) -> None:
    generator = load(kind, drafter=named(drafter, kind), policy=SIZE)
    drafted = 0
    for name, options in SAMPLINGS.items():
        result = generator.generate(PROMPT, **WRITE, **options)
        assert result.token_ids == alone(name), name
        assert result.speculation.exactness == "identical"
        drafted += result.speculation.target.drafted
    assert drafted > 20


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize(
    ("kind", "drafter"),
    [
        pytest.param("eagle1", "eagle1", marks=pytest.mark.method("eagle1")),
        pytest.param("fspad", "tree(eagle2)", marks=pytest.mark.method("fspad")),
        pytest.param("clover", "clover", marks=pytest.mark.method("clover")),
        pytest.param("clover", "tree(clover)", marks=pytest.mark.method("clover")),
    ],
)
def test_the_text_is_the_targets_with_heads_that_predict_states(
    load: Callable[..., Any], kind: str, drafter: str
) -> None:
    generator = load(kind, drafter=drafter, policy=SIZE)
    drafted = 0
    for name in ("greedy", "penalties"):
        result = generator.generate(PROMPT, **WRITE, **SAMPLINGS[name])
        assert result.token_ids == alone(name), name
        assert result.speculation.exactness == "identical"
        drafted += result.speculation.target.drafted
    assert drafted > 10
    assert kind in head_drafter(generator.strategy.drafter.model, 0.0).name


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
def test_the_automatic_choice(load: Callable[..., Any], kind: str) -> None:
    """It measures the head, and changes no text."""
    generator = load(kind)
    result = generator.generate(PROMPT, **WRITE, temperature=0.9, top_p=0.9)
    assert result.token_ids == alone("sampled")
    assert kind in generator.strategy.describe()


@pytest.mark.usefixtures("any_head")
@pytest.mark.method("hinted")
def test_a_head_that_ships_is_found(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its tokenizer; weights of heads for other models are not read."""
    monkeypatch.setattr(heads, "families_folder", lambda: tmp_path)
    target = family("tiny")["target"]
    mine, other = tmp_path / "heads" / "mine", tmp_path / "heads" / "another"
    for folder in (mine, other):
        shutil.copytree(folders["hinted"], folder)
    (other / "model.safetensors").write_bytes(b"not read")
    config = json.loads((other / "config.json").read_text())
    config["outrider"]["tokenizer"] = "of another model"
    (other / "config.json").write_text(json.dumps(config))
    generator = outrider.load(target, threads=1)
    assert "hinted" in generator.strategy.drafter.name
    assert generator.generate(PROMPT, **WRITE).token_ids == alone("greedy")
    for options in ({"draft": "none"}, {"drafter": "suffix"}, {"layer_skipping": 1.5}):
        free = outrider.load(target, threads=1, **options)
        assert "hinted" not in free.strategy.drafter.name, options


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_a_long_prompt_and_more_turns(load: Callable[..., Any], kind: str) -> None:
    generator = load(kind, drafter=kind)
    prompts = [PROMPT, "A", PROMPT * 3, (5,), (*undrafted().tokenizer.encode(PROMPT), 8, 9)]
    options: dict[str, Any] = {**WRITE, "temperature": 0.8}
    plain = [undrafted().generate(prompt, **options).token_ids for prompt in prompts]
    assert [one.token_ids for one in generator.generate(prompts, **options)] == plain
    assert [generator.generate(prompt, **options).token_ids for prompt in prompts] == plain
    several = [one.token_ids for one in generator.generate(PROMPT, n=3, **options)]
    assert several == [one.token_ids for one in undrafted().generate(PROMPT, n=3, **options)]


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_left(load: Callable[..., Any], kind: str) -> None:
    generator = load(kind, drafter=kind)
    for _ in generator.stream(PROMPT, **WRITE):
        break
    assert generator.generate(PROMPT, **WRITE).token_ids == alone("greedy")


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
def test_by_outer_rejection(load: Callable[..., Any], kind: str) -> None:
    generator = load(kind, drafter="model", rule="rejection")
    result = generator.generate(PROMPT, **WRITE, temperature=1.0)
    assert len(result.token_ids) == 16 and result.speculation.exactness == "distribution"
    assert result.speculation.target.drafted > 0


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_does_not_draft_is_refused(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was tried on a few prompts; the result is kept."""
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path))
    monkeypatch.setattr("outrider.engine.heads.probe.LEAST", 9.0)
    with pytest.raises(StrategyError, match="does not draft for target") as refusal:
        outrider.load("tiny", draft=folders[kind], drafter=kind)
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr("outrider.engine.heads.probe.tokens_a_round", None)  # not called again
    with pytest.raises(StrategyError, match="does not draft for target"):
        outrider.load("tiny", draft=folders[kind], drafter=kind)


def refused(message: str, *given: Any, error: type[OutriderError] = OptionError, **options: Any):
    with pytest.raises(error) as refusal:
        outrider.load(*given, threads=1, **options)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_belongs_below_its_target(folders: dict[str, Path], kind: str) -> None:
    head = folders[kind]
    refused("is given as the target", head)
    refused("is given as the qualifier", "tiny", qualifier=head)
    refused("is given as the target", head, mode="none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{"guidance": 1.5}, {"layer_skipping": 1.5}, {"selection": ContextConfig()}]
)
def test_a_changed_target_has_no_head(
    folders: dict[str, Path], kind: str, options: dict[str, Any]
) -> None:
    refused("reads states of the plain target", "tiny", draft=folders[kind], **options)


def test_a_drafter_of_heads_without_a_head() -> None:
    with pytest.raises(OptionError, match="'hinted' needs a draft head"):
        outrider.load(family("tiny")["target"], drafter="hinted")


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_for_another_target(folders: dict[str, Path], kind: str) -> None:
    other = family("tiny")["draft"]
    message = "the head for tiny reads states of size "
    refused(message, other, draft=folders[kind], drafter=kind, error=StrategyError)


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_for_the_other_kind(folders: dict[str, Path], kind: str) -> None:
    other = {"hinted": "eagle3", "eagle3": "hinted"}[kind]
    refused(f"needs a head of kind {other}", "tiny", draft=folders[kind], drafter=other)
    refused(f"needs a head of kind {kind}", "tiny", drafter=kind)


@pytest.mark.method("eagle3")
@pytest.mark.usefixtures("any_head")
def test_an_original_head_of_eagle3_is_recognised(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its config.json is that of a Llama model; only the names of its tensors show what it is."""
    file = read_head(folders["eagle3"])
    renamed = {
        name.replace("layers.0.", "midlayer."): tensor.contiguous()
        for name, tensor in in_speculators(file.tensors, file.config.target_vocab).items()
        if not name.startswith("fc_norm")
    }
    config = json.loads((folders["eagle3"] / "config.json").read_text())
    settings = config["transformer_layer_config"] | {"draft_vocab_size": config["draft_vocab_size"]}
    settings["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": list(file.config.states)}
    write(tmp_path, settings, renamed)
    options: dict[str, Any] = {"drafter": "eagle3", "num_speculative_tokens": 2}
    generator = outrider.load("tiny", qualifier="none", draft=tmp_path, **options)
    drafted = generator.generate(PROMPT, **WRITE)
    assert (
        drafted.token_ids == outrider.load("tiny", mode="none").generate(PROMPT, **WRITE).token_ids
    )
    assert drafted.speculation.target.drafted > 0


@pytest.mark.method("eagle1")
@pytest.mark.usefixtures("any_head")
def test_an_original_head_of_eagle1_is_recognised(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its config.json is that of a Llama model of one layer, which is not a head."""
    source = family("tiny")["target"]
    teacher = Teacher.of(open_checkpoint(source))
    file = read_head(folders["eagle1"])
    names = [name for name in file.tensors if name != "ids"]
    settings = json.loads((folders["eagle1"] / "config.json").read_text())
    layer = settings["transformer_layer_config"]
    write(
        tmp_path / "head",
        layer,
        {name: file.tensors[name].contiguous() for name in names}
        | {"embed_tokens.weight": teacher.embed},
    )
    generator = outrider.load("tiny", qualifier="none", draft=tmp_path / "head", drafter="eagle1")
    assert generator.strategy.drafter.model.config.draft_vocab == teacher.config.vocab_size
    result = generator.generate(PROMPT, **WRITE)
    assert result.token_ids == alone("greedy")
    plain = {f"model.{name}": file.tensors[name] for name in names if name.startswith("layers")}
    write(tmp_path / "model", layer, plain)
    assert heads.take_head([("target", source), ("draft", tmp_path / "model")])[1] is None
    write(tmp_path / "large", layer | {"num_hidden_layers": 2}, {"fc.weight": torch.ones(2, 2)})
    assert heads.take_head([("target", source), ("draft", tmp_path / "large")])[1] is None


@pytest.mark.usefixtures("any_head")
@pytest.mark.parametrize(
    "kind",
    [*KINDS, pytest.param("eagle1", marks=pytest.mark.method("eagle1"))],
)
def test_the_memory_plan_counts_the_head(folders: dict[str, Path], kind: str) -> None:
    """Its cache and the states that caches of its target keep beside keys and values."""
    demand = heads.head_demand(heads.Chosen(folders[kind], given=True))
    source = family("tiny")["target"]
    target = outrider.load(source, drafter="none").strategy.target
    pair = heads.load_head(heads.Chosen(folders[kind], given=True), target, Tokenizer.load(source))
    assert pair is not None
    states = pair.target.info.bytes_per_token - target.info.bytes_per_token
    assert demand.cache == states + pair.head.info.bytes_per_token
    assert demand.weights >= (pair.head.info.weight_bytes or 0)


def test_a_format_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dflash_config": {}}))
    refused("DFlash", "tiny", draft=tmp_path, error=OutriderError)


def test_a_damaged_head(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["hinted"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:900])
    refused("config.json", "tiny", draft=tmp_path, error=OutriderError)
