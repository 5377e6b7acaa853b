"""CAAD: what followed similar contexts is added, and nothing where there are none."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError, StoreError, StrategyError
from outrider.core.types import Prompt, as_ids
from outrider.guidance.recipe import Parts
from outrider.guidance.retrieval.building import Answered, build_store, default_layer, stored
from outrider.guidance.retrieval.caad import Caad
from outrider.guidance.retrieval.nearest import Nearest
from outrider.guidance.retrieval.store import LogitStore, Origin
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from tests.exactness.setups.checkpoints import RUNNERS, make_tiers
from tests.guidance.retrieval.toys import Numbers

pytestmark = pytest.mark.method("caad")
ANSWERS = [Answered("5 9 40 3", "8 1 30"), Answered("7 7", "2 6"), Answered("11 12 13", "21 4 19")]
PROMPT = Prompt(token_ids=(5, 9, 40, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiers(tmp_path_factory.mktemp("caad"), "llama", (0.0,), num_hidden_layers=4)[0]


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return RUNNERS["eager"](folder)


@pytest.fixture(scope="module")
def store(model: Decoder) -> LogitStore:
    return build_store(model, Numbers(), ANSWERS)


def rows(model: Any, tokens: Sequence[int] = (), prompt: Prompt = PROMPT) -> Tensor:
    [cache] = model.start([prompt])
    want = as_ids(range(-1, len(tokens)))
    [found] = model.forward([Segment(cache, as_ids(tokens))], [want])
    return found.logits


def guided(model: Any, store: Any, **options: Any) -> Any:
    return Caad(store=store, **options).build(Parts(target=model, models={}, codec=None))


def part(store: LogitStore, entries: Sequence[int]) -> LogitStore:
    keep = list(entries)
    return replace(
        store, states=store.states[keep], tokens=store.tokens[keep], logits=store.logits[keep]
    )


def test_a_store_holds_a_context_for_each_token_and_the_end(
    model: Decoder, store: LogitStore
) -> None:
    assert len(store) == 4 + 3 + 4 and store.origin.answers == 3
    assert store.origin.layer == default_layer(4) == 3
    plain = rows(model, (8, 1, 30))
    torch.testing.assert_close(store.tokens[:4, 0].long(), plain.argmax(-1))
    # All tokens of this vocabulary are kept: the logits are those of the model but for a constant.
    dense = torch.zeros(4, 48).scatter(1, store.tokens[:4].long(), store.logits[:4])
    expected = (plain - plain.amin(-1, keepdim=True)).float()
    torch.testing.assert_close(dense, expected)


def test_the_logits_may_be_those_of_the_model_that_was_told_the_answer(
    model: Decoder, store: LogitStore
) -> None:
    told = build_store(model, Numbers(), ANSWERS, told=True)
    assert torch.equal(told.states, store.states)
    plain = rows(model, (8, 1, 30), Prompt(token_ids=(8, 1, 30, 5, 9, 40, 3)))
    assert torch.equal(told.tokens[:4, 0].long(), plain.argmax(-1))
    assert told.digest != store.digest and told.origin.told


@pytest.mark.parametrize("centred", [True, False])
def test_the_weighted_mean_of_the_nearest_contexts_is_added(
    model: Decoder, store: LogitStore, centred: bool
) -> None:
    """The equations of the paper, by hand."""
    options = {"alpha": 0.7, "nearest": 3, "temperature": 0.2, "least": -1.0, "floor": 0.0}
    options["centred"] = centred
    [cache] = model.start([PROMPT])
    model.hidden_states.watch(cache, (3,))
    [found] = model.forward([Segment(cache, as_ids((8, 6)))], [as_ids((-1, 0, 1))])
    middle = store.states.double().mean(0) * centred
    expected = found.logits.clone()
    for n in range(3):
        here = found.states[0, n] - middle
        alike = torch.cosine_similarity(here[None], store.states.double() - middle)
        best = alike.argsort(descending=True)[:3]
        shares = (alike[best] / 0.2).exp() / (alike[best] / 0.2).exp().sum()
        for share, entry in zip(shares, best, strict=True):
            dense = torch.zeros(48, dtype=torch.float64)
            dense[store.tokens[entry].long()] = store.logits[entry].double()
            expected[n] += 0.7 * share * dense
    torch.testing.assert_close(rows(guided(model, store, **options), (8, 6)), expected)


def test_an_empty_store_and_a_weight_of_zero_are_the_model(
    model: Decoder, store: LogitStore
) -> None:
    plain = rows(model, (8, 1))
    assert torch.equal(rows(guided(model, part(store, [])), (8, 1)), plain)
    assert torch.equal(rows(guided(model, store, alpha=0.0), (8, 1)), plain)
    assert not torch.equal(rows(guided(model, store), (8, 1)), plain)


def test_a_stored_context_moves_towards_what_followed_it(model: Decoder, store: LogitStore) -> None:
    other = replace(store, tokens=store.tokens.roll(5, dims=1))  # another best token
    base, found = rows(model)[0], rows(guided(model, other, nearest=1, alpha=3.0, floor=0.0))[0]
    best = int(other.tokens[0, 0])
    assert int(base.argmax()) != best == int(found.argmax())
    shift = found - base
    assert int(shift.argmax()) == best and float(shift.min()) == 0.0


def test_rows_without_a_similar_context_stay_to_the_bit(model: Decoder, store: LogitStore) -> None:
    tokens = (8, 1, 30)
    base = rows(model, tokens)
    found = rows(guided(model, store, least=0.999), (8, 6))
    assert not torch.equal(found[:2], base[:2]) and torch.equal(found[2], rows(model, (8, 6))[2])
    least = guided(model, part(store, [5, 6]), least=1.0, centred=False)
    assert torch.equal(rows(least, tokens), base)


def test_tokens_below_the_floor_are_excluded_but_the_best(
    model: Decoder, store: LogitStore
) -> None:
    probs = torch.softmax(rows(model)[0], dim=-1)
    found = rows(guided(model, store, floor=0.02))[0]
    assert torch.equal(found == -torch.inf, probs < 0.02) and 0 < int((probs < 0.02).sum()) < 47
    alone = rows(guided(model, store, floor=1.0))[0]
    assert (alone > -torch.inf).nonzero().flatten().tolist() == [int(probs.argmax())]


def test_one_context_is_compared_without_a_mean(model: Decoder, store: LogitStore) -> None:
    one = part(store, [0])
    nearest = Nearest(one, count=1, least=0.5, temperature=0.1, centred=True)
    assert float(nearest.similarities(one.states[0])[0]) == pytest.approx(1.0)
    assert not torch.equal(rows(guided(model, one)), rows(model))


def test_only_contexts_that_are_similar_enough_share_the_weight() -> None:
    places = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    tokens = torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32)
    origin = Origin(model="", tokenizer="", vocab_size=3, layer=1)
    three = LogitStore(
        states=places, tokens=tokens, logits=torch.tensor([[2.0, 1.0]] * 3), origin=origin
    )
    here = torch.tensor([3.0, 0.0])

    def after(least: float) -> list[float] | None:
        nearest = Nearest(three, count=3, least=least, temperature=0.5, centred=False)
        found = nearest.after(here)
        return None if found is None else found.tolist()

    first = 1.0 / (1.0 + math.exp((math.sqrt(0.5) - 1.0) / 0.5))
    second = 1.0 - first
    assert after(0.7) == pytest.approx([2 * first, first + 2 * second, second])
    assert after(1.0) == pytest.approx([2.0, 1.0, 0.0])  # the least cosine itself is enough
    nowhere = Nearest(three, count=3, least=-1.0, temperature=0.5, centred=False)
    assert nowhere.similarities(torch.zeros(2)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", [kind for kind in ("native", "int8") if kind in RUNNERS])
def test_compiled_rows_do_not_depend_on_how_many_are_read(folder: Path, kind: str) -> None:
    native = RUNNERS[kind](folder)
    model = guided(native, build_store(native, Numbers(), ANSWERS), least=0.0, floor=0.0)
    together = rows(model, (8, 1, 30))
    assert not torch.equal(together, rows(native, (8, 1, 30)))
    for count in range(4):
        assert torch.equal(rows(model, (8, 1, 30)[:count])[count], together[count])


def test_a_store_fits_only_its_model_and_its_tokenizer(
    model: Decoder, store: LogitStore, tmp_path: Path
) -> None:
    # Another seed makes other weights of the same shape.
    other = make_tiers(tmp_path, "llama", (0.1,), num_hidden_layers=4)[0]
    with pytest.raises(StoreError, match="was built with another model") as caught:
        guided(RUNNERS["eager"](other), store)
    assert caught.value.hint and "\n" not in str(caught.value)
    parts = Parts(target=model, models={}, codec=Numbers("others"))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="was built with another tokenizer"):
        Caad(store=store).build(parts)
    same = Parts(target=model, models={}, codec=Numbers())  # type: ignore[arg-type]
    first, second = (Caad(store=s).build(same).info for s in (store, part(store, [0, 1])))
    assert first.fingerprint != second.fingerprint != model.info.fingerprint


def test_the_fingerprint_follows_what_the_file_of_a_store_holds(
    model: Decoder, store: LogitStore, tmp_path: Path
) -> None:
    file = tmp_path / "facts.safetensors"
    found: list[str] = []
    for one in (store, part(store, [0, 1]), replace(store, logits=store.logits * 2)):
        one.save(file, force=True)
        found.append(guided(model, str(file)).info.fingerprint)
    assert len({*found, model.info.fingerprint}) == 4


def test_what_it_can_not_read_is_refused(model: Decoder) -> None:
    table = TabularModel.random()
    origin = Origin(model=table.info.fingerprint, tokenizer="", vocab_size=26, layer=1)
    empty = stored(torch.zeros(0, 4), torch.zeros(0, 26), origin)
    with pytest.raises(StrategyError, match="does not return the states of its layers"):
        guided(table, empty)
    with pytest.raises(StrategyError, match="does not return the states of its layers"):
        build_store(table, Numbers(), ANSWERS)
    with pytest.raises(OptionError, match="layer is 5"):
        build_store(model, Numbers(), ANSWERS, layer=5)


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"nearest": 0}, {"temperature": 0.0}, {"least": 1.5}, {"floor": 2.0}],
)
def test_options_out_of_range_are_refused(store: LogitStore, options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(OptionError, match=f"{name} is"):
        Caad(store=store, **options)
