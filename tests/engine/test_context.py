"""Documents in front of prompts: what is read of them, by whom, and what is reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.context.config import ContextConfig
from outrider.core.errors import ContextError, MissingExtraError, OptionError
from outrider.core.types import LongContext
from outrider.engine.generator import Generator
from outrider.engine.load import load
from outrider.engine.long_inputs import limited
from outrider.models.memory import Demand
from outrider.protocols import ContextSelector
from tests.context.story import FACTS, STORY
from tests.engine.conftest import Folders

pytestmark = pytest.mark.usefixtures("unchecked")

CONFIG = ContextConfig(chunk_size=24, keep_ratio=0.5, refresh=8, encoder="embeddings")
ASK = "What about the bees?"
WRITE: dict[str, Any] = {"max_new_tokens": 20, "ignore_eos": True}


def loaded(folders: Folders, tiers: int = 3, **options: Any) -> Generator:
    middle = folders.qualifier if tiers > 2 else None
    draft = folders.draft if tiers > 1 else None
    lengths = {"num_speculative_tokens": 2, "num_qualified_tokens": 4}
    mode = "exact" if tiers > 1 else "none"
    return load(
        folders.target,
        qualifier=middle,
        draft=draft,
        mode=mode,
        dtype="float64",
        **(lengths | options),
    )


# -- what is read ------------------------------------------------------------------------------


def test_without_a_selection_everything_is_read(folders: Folders) -> None:
    generator = loaded(folders)
    result = generator.generate(ASK, documents=STORY[:150], **WRITE)
    plain = generator.generate(f"{STORY[:150]}\n\n{ASK}", **WRITE)
    assert result.token_ids == plain.token_ids and plain.context is None
    assert "context" not in plain.to_dict()
    figures = result.to_dict()["context"]
    assert (figures["on"], figures["selector"], figures["tokens"]) == (None, None, 150)
    assert figures["kept_tokens"] == 150 and figures["chunks"] == figures["kept_chunks"] > 0
    held = result.prompt_tokens + 19
    assert figures["kv_tokens"] == held
    bytes_per_token = generator.strategy.target.info.bytes_per_token  # pyright: ignore
    assert figures["kv_bytes"] == held * bytes_per_token > 0


def test_a_selecting_target(folders: Folders) -> None:
    alone = loaded(folders, 1, selection=CONFIG).generate(ASK, documents=STORY, **WRITE)
    drafted = loaded(folders, 3, selection=CONFIG).generate(ASK, documents=STORY, **WRITE)
    assert drafted.token_ids == alone.token_ids
    assert drafted.prompt_tokens == len(STORY) + len(ASK) + 2
    figures = drafted.to_dict()["context"]
    assert (figures["on"], figures["selector"], figures["encoder"]) == (
        "target",
        "apce",
        "embeddings",
    )
    assert figures["kept_chunks"] == 4 and figures["chunks"] == 8
    assert figures["refreshes"] == 2 and figures["kv_tokens"] < drafted.prompt_tokens
    assert drafted.reading is not None and drafted.reading.selector == "apce"
    named = set(figures) - {"on", "decisions", "select_seconds", "recomputed_tokens"}
    assert named == {
        *("tokens", "chunks", "kept_chunks", "kept_tokens", "kv_tokens", "kv_bytes"),
        *("swaps", "refreshes", "refresh_seconds", "selector", "encoder"),
    }


def test_selecting_drafters_do_not_change_the_text(folders: Folders) -> None:
    dense = loaded(folders, 1).generate(ASK, documents=STORY, **WRITE)
    generator = loaded(folders, 3, selection=CONFIG, selection_on="drafters")
    result = generator.generate(ASK, documents=STORY, **WRITE)
    assert result.token_ids == dense.token_ids
    assert result.to_dict()["context"]["on"] == "drafters"
    assert not isinstance(generator.strategy.target, ContextSelector)
    qualifier = generator.strategy.drafter.qualifier  # pyright: ignore
    assert isinstance(qualifier, ContextSelector)


def test_tiers_share_a_ranker_unless_it_reads_with_their_embeddings(folders: Folders) -> None:
    for selector, same in (("bm25", True), ("apce", False)):
        config = ContextConfig(chunk_size=24, selector=selector, encoder="embeddings")
        strategy = loaded(folders, 3, selection=config).strategy
        target: Any = strategy.target
        qualifier: Any = strategy.drafter.qualifier  # pyright: ignore
        assert (target.ranker is qualifier.ranker) is same


def test_streams_chats_samples_and_lists(folders: Folders) -> None:
    generator = loaded(folders, 2, selection=CONFIG)
    expected = generator.generate(ASK, documents=STORY, **WRITE).token_ids
    generator.reset()
    stream = generator.stream(ASK, documents=STORY, **WRITE)
    assert "".join(stream) == stream.result.text
    assert stream.result.token_ids == expected
    generation, rounds = generator.start(ASK, documents=STORY, **WRITE)
    assert len(list(rounds)) > 0 and tuple(generation.output) == expected
    one, other = generator.generate(ASK, documents=STORY, n=2, temperature=1.0, seed=3, **WRITE)
    assert one.token_ids != other.token_ids and other.to_dict()["context"]["tokens"] == len(STORY)
    first, second = generator.generate([ASK, "And the boat?"], documents=STORY, **WRITE)
    assert first.token_ids == expected and second.prompt_tokens == first.prompt_tokens - 7
    said = [{"role": "user", "content": ASK}]
    chat = generator.generate(said, documents=STORY, **WRITE)
    assert chat.prompt_tokens == first.prompt_tokens + 3


def test_chunks_that_are_pinned_banned_and_chosen_by_hand(folders: Folders) -> None:
    generator = loaded(folders, 2, selection=CONFIG)
    prompt = generator.prompt(ASK, documents=STORY)
    assert prompt == generator.prompt(prompt) and prompt.context is not None

    def read(context: LongContext) -> list[tuple[int, ...]]:
        result = generator.generate(replace(prompt, context=context), **WRITE)
        return [decision.chosen for decision in result.reading.selection.decisions]

    assert all(3 in chosen for chosen in read(prompt.context.pin(3)))
    assert all(0 not in chosen for chosen in read(prompt.context.ban(0)))
    assert read(prompt.context.only(1, 6)) == [(1, 6)]
    target: Any = generator.strategy.target
    assert target.selection(prompt).chosen == read(prompt.context)[0]


def test_forms_of_documents(folders: Folders, tmp_path: Path) -> None:
    generator = loaded(folders, 1, selection=CONFIG)
    (tmp_path / "a.txt").write_text(FACTS[0])
    (tmp_path / "b.md").write_text(FACTS[1])

    def tokens(context: Any) -> int:
        return generator.generate(ASK, documents=context, max_new_tokens=1).to_dict()["context"][
            "tokens"
        ]

    both = len(f"a.txt:\n{FACTS[0]}\n\nb.md:\n{FACTS[1]}")
    assert tokens(tmp_path / "a.txt") == tokens(FACTS[0]) == tokens([("x", FACTS[0])])
    assert tokens(("x", FACTS[0])) == len(FACTS[0])
    assert tokens(tmp_path) == both
    assert tokens([tmp_path / "a.txt", ("b.md", FACTS[1])]) == both
    assert tokens([FACTS[0], FACTS[1]]) > len(FACTS[0]) + len(FACTS[1])
    with pytest.raises(OptionError, match=r"there is also a file of this name. Give Path\("):
        tokens(str(tmp_path / "a.txt"))
    for wrong in (3, [3], [("a", 1)], b"bytes"):
        with pytest.raises(OptionError, match="documents is"):
            tokens(wrong)
    with pytest.raises(OptionError, match="there is no document"):
        tokens([])


# -- limits ------------------------------------------------------------------------------------


def test_room_for_the_answer(folders: Folders) -> None:
    config = ContextConfig(chunk_size=24, keep_ratio=0.5, encoder="embeddings", positions="compact")
    wide = loaded(folders, 1, selection=config, context_length=160)
    result = wide.generate(ASK, documents=STORY, max_new_tokens=500, ignore_eos=True)
    target: Any = wide.strategy.target
    prompt = wide.prompt(ASK, documents=STORY)
    assert result.completion_tokens == 160 - target.reads(prompt) > 0
    dense = loaded(folders, 1, context_length=160)
    with pytest.raises(ContextError, match="limited to 160"):
        dense.generate(ASK, documents=STORY)


def test_what_a_dense_target_can_not_read(folders: Folders) -> None:
    long = STORY * 3
    for options in ({}, {"selection": CONFIG, "selection_on": "drafters"}):
        with pytest.raises(ContextError) as refusal:
            loaded(folders, 2, **options).generate(ASK, documents=long)
        assert "--keep-ratio 0.6 or --context-budget N" in str(refusal.value)
        assert "reads at most 256" in str(refusal.value)
    read = loaded(folders, 2, selection=CONFIG).generate(ASK, documents=long, **WRITE)
    assert read.completion_tokens == 20


@pytest.mark.parametrize("asked", [{"positions": "original"}, {"recompute": "new_only"}])
def test_a_window_too_small_for_original_positions(folders: Folders, asked: dict[str, Any]) -> None:
    config = ContextConfig(chunk_size=24, keep_ratio=0.2, encoder="embeddings", **asked)
    with pytest.raises(ContextError, match="Set positions and recompute to 'auto'"):
        loaded(folders, 1, selection=config).generate(ASK, documents=STORY * 3)


def test_a_budget_below_the_instruction(folders: Folders) -> None:
    config = ContextConfig(chunk_size=24, budget=10, encoder="embeddings")
    with pytest.raises(ContextError, match=r"the instruction takes 22 tokens.*limited to 10"):
        loaded(folders, 1, selection=config).generate(ASK, documents=STORY)


def test_the_memory_plan_knows_the_budget() -> None:
    demands = [Demand(tier="target", weights=1, cache=2), Demand(tier="draft", weights=1, cache=1)]
    config = ContextConfig(budget=1000)
    assert [d.context_length for d in limited(demands, config, "target")] == [2024, 2024]
    assert [d.context_length for d in limited(demands, config, "drafters")] == [None, 2024]
    assert limited(demands, ContextConfig(), "target") == demands
    assert limited(demands, None, "target") == demands


# -- before any weight is read -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"selection": {"keep_ratio": 0.0}}, "keep_ratio is 0.0"),
        ({"selection": {"keep_ration": 0.5}}, "'keep_ration'. Did you mean 'keep_ratio'?"),
        ({"selection": {"selector": "bm26"}}, "unknown selector 'bm26'. Did you mean 'bm25'?"),
        ({"selection": 2048}, "context_length limits"),
        ({"selection": CONFIG, "selection_on": "draft"}, "Did you mean 'drafters'?"),
        ({"selection_on": "drafters"}, "no selection is given"),
        ({"selection": CONFIG, "selection_on": "drafters", "mode": "none"}, "no draft model"),
        ({"selection": CONFIG, "selection_on": "drafters", "drafter": "lookup"}, "no draft model"),
        ({"selection": {"encoder": 3}}, "encoder is 3"),
    ],
)
def test_options(
    options: dict[str, Any], said: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(OptionError) as refusal:
        load(folders.target, draft=folders.draft, **options)
    assert said in str(refusal.value)


def test_an_encoder_that_is_not_installed(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr("outrider.context.rankers.sentence.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="context"):
        load(folders.target, draft=folders.draft, selection=ContextConfig(encoder="minilm"))


def test_an_encoder_that_is_not_there(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("outrider.engine.build.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(OptionError, match="cannot load the encoder"):
        load(folders.target, selection=ContextConfig(encoder=str(tmp_path)))


def test_instructions_must_be_text(folders: Folders) -> None:
    generator = loaded(folders, 1)
    for prompt in ([1, 2], outrider.Prompt(token_ids=(1,))):
        with pytest.raises(OptionError, match="the prompt must be the instruction"):
            generator.generate(prompt, documents="x")
    bare = Generator(generator.strategy)
    with pytest.raises(OptionError, match="the target has no tokenizer"):
        bare.generate("x", documents="y")
