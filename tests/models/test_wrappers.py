"""Models around models: what the model inside can do, the wrapper can do, over its own caches."""

import ast
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, get_args, get_type_hints
from unittest.mock import MagicMock

import pytest
import torch

import outrider
from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.core.errors import StrategyError
from outrider.core.types import NO_IDS
from outrider.guidance.cache import MixedCache
from outrider.guidance.classifier_free import guided
from outrider.guidance.mixed import Mixed
from outrider.models.latents.augmented import AugmentedModel
from outrider.models.tabular import TabularModel
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.models.wrappers.foreign import ForeignModel
from outrider.models.wrappers.passing import ModelWrapper
from outrider.models.wrappers.skipping import SkippingModel
from outrider.protocols import CAPABILITIES, Cache, Capabilities, ChainRequest, Segment
from tests.context.toys import Wandering, long_prompt
from tests.guidance.toys import image_prompt

CONFIG = ContextConfig(keep_ratio=0.5, refresh=2)
RUNNERS = {
    "OwnModel",
    "NextToken",
    "Decoder",
    "NativeDecoder",
    "StaticDecoder",
    "TabularModel",
    "ReplayModel",
    "HeadModel",
    "ExitModel",
} | {
    "TransformersModel",
    "LanguageModel",
}
"""Classes that read and are not around another model."""


class NoVisionEncoder:
    """Sees nothing."""

    image_token_ids = frozenset({3})

    def views(self, image_prompt: Sequence[Any]) -> list[Any]:
        return []


class Able(TabularModel):
    """A table with the capabilities given, of which it has none itself."""

    segmented = None  # pyright: ignore

    def __init__(self, **capabilities: Any) -> None:
        super().__init__(torch.zeros(64, 64))
        vars(self).update(capabilities)


def skipping(inner: Any) -> SkippingModel:
    """It cannot be made without a layered model."""
    layered = inner.layered or MagicMock()
    layered.num_layers, layered.subset.return_value = 8, Able()
    inner.layered = layered
    return SkippingModel(inner, speedup=2.0)


WRAPPERS: dict[type, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    VisionLanguageModel: (
        lambda inner: VisionLanguageModel(inner, NoVisionEncoder()),
        lambda: long_prompt(),
    ),
    Selected: (lambda inner: Selected(inner, Wandering(), CONFIG), lambda: long_prompt()),
    Mixed: (lambda inner: guided(inner, 2.0), lambda: image_prompt(1, 2)),
    SkippingModel: (skipping, lambda: long_prompt()),
    ForeignModel: (
        lambda inner: ForeignModel(inner, own=MagicMock(), target=MagicMock(), target_size=64),
        lambda: long_prompt(),
    ),
    AugmentedModel: (
        lambda inner: AugmentedModel(inner, inner, torch.empty(0, 1)),
        lambda: long_prompt(),
    ),
}
"""How each is made around a model, and a prompt for which it makes caches of its own."""

CHANGED: dict[tuple[type, str], str] = {
    (Selected, "segmented"): "it rearranges its caches itself",
    (Selected, "selector"): "it is one, and refuses a model that selects already",
    (Mixed, "segmented"): "pieces name tokens of one text, and there are two",
    (Mixed, "selector"): "both texts choose for themselves when they are read",
    (Mixed, "chain_decoder"): "the model inside would choose from rows that are not mixed",
    (SkippingModel, "layered"): "rows of written tokens lack keys of the layers left out",
    (SkippingModel, "segmented"): "which layers read a token depends on its place",
    (SkippingModel, "selector"): "which layers read a token depends on its place",
    (SkippingModel, "chain_decoder"): "the end of a prompt is read by all layers",
}

REFUSED: dict[str, str] = {"keeping": "the model inside would lose its wrapper"}
"""Methods that a wrapper refuses."""

pytestmark = pytest.mark.usefixtures("unchecked")  # capabilities are mocks

CASES = [pytest.param(w, c, id=f"{w.__name__}-{c}") for w in WRAPPERS for c in CAPABILITIES]


def opened(cache: Any) -> Any:
    """The cache of the model inside."""
    if isinstance(cache, MixedCache):
        return cache.sources[0]
    return getattr(cache, "inner", cache)


def protocol_of(capability: str) -> Any:
    """Its protocol, or the type of a function."""
    found = get_type_hints(inspect.getattr_static(Capabilities, capability).fget)["return"]
    return get_args(found)[0]


def argument(kind: Any, cache: Any) -> tuple[Any, Any]:
    """An argument of this type for the wrapper, and as the model inside is to get it."""
    if kind is Cache:
        return cache, opened(cache)
    if kind == Sequence[Cache]:
        return [cache], [opened(cache)]
    if kind == Sequence[ChainRequest]:
        pair = (cache, opened(cache))
        chains = [ChainRequest(Segment(c, NO_IDS), MagicMock(), (), 1) for c in pair]
        return chains[:1], chains[1:]
    thing = object()
    return thing, thing


def check_passed(wrapper: Any, capability: str, inner: Any, cache: Any) -> None:
    """Whatever is asked of the capability of `wrapper`, that of the model inside answers."""
    ours, theirs = getattr(wrapper, capability), getattr(inner, capability)
    assert ours is not None, f"{type(wrapper).__name__} has no {capability}"
    protocol = protocol_of(capability)
    if not getattr(protocol, "_is_protocol", False):
        assert ours is theirs
        return
    for name, member in vars(protocol).items():
        if name.startswith("_") or not (isinstance(member, property) or callable(member)):
            continue
        if isinstance(member, property):
            assert getattr(ours, name) is getattr(theirs, name), name
            continue
        hints = get_type_hints(member, localns={"LayerSet": object})
        names = list(inspect.signature(member).parameters)[1:]
        pairs = [argument(hints[n], cache) for n in names]
        theirs.reset_mock()
        if name in REFUSED:
            with pytest.raises(StrategyError):
                getattr(ours, name)(*(given for given, _ in pairs))
            theirs.assert_not_called()
            continue
        found = getattr(ours, name)(*(given for given, _ in pairs))
        method = getattr(theirs, name)
        method.assert_called_once()
        assert found is method.return_value or found is None
        for (given, wanted), got in zip(pairs, method.call_args.args, strict=True):
            is_chains = isinstance(wanted, list) and isinstance(wanted[0], ChainRequest)
            if is_chains:
                assert [c.segment.cache for c in got] == [c.segment.cache for c in wanted]
            else:
                assert got == wanted, f"{capability}.{name} was given {got}, not {wanted}"
            del given


@pytest.mark.parametrize(("kind", "capability"), CASES)
def test_what_the_model_inside_can_do_is_passed_on(kind: type, capability: str) -> None:
    make, prompt = WRAPPERS[kind]
    able = MagicMock(name=capability)
    without = Able()
    if (kind, capability) in CHANGED:
        wrapper = make(Able() if capability == "selector" else Able(**{capability: able}))
        assert getattr(wrapper, capability) in (None, wrapper)
        return
    wrapper = make(inner := Able(**{capability: able}))
    [cache] = wrapper.start([prompt()])
    check_passed(wrapper, capability, inner, cache)
    assert getattr(make(without), capability) is None


def test_a_changed_capability_has_a_reason_and_a_name() -> None:
    assert all(reason for reason in CHANGED.values())
    assert {capability for _, capability in CHANGED} <= set(CAPABILITIES)
    assert {kind for kind, _ in CHANGED} <= set(WRAPPERS)


class Forgetful(ModelWrapper):
    """Forgets its hidden states, and to open its caches."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, inner.info)
        self.hidden_states = None

    def start(self, prompts: Sequence[Any], reuse: Any = None) -> list[Any]:
        cache = MagicMock()
        cache.inner = object()
        return [cache]


@pytest.mark.parametrize("capability", ["hidden_states", "layered", "segmented", "chain_decoder"])
def test_a_wrapper_that_passes_nothing_on_is_noticed(capability: str) -> None:
    wrapper = Forgetful(inner := Able(**{capability: MagicMock()}))
    [cache] = wrapper.start([])
    with pytest.raises(AssertionError):
        check_passed(wrapper, capability, inner, cache)


def test_every_wrapper_is_tested() -> None:
    """Those that derive from `ModelWrapper`, and whatever else has the verbs of a model."""
    for module in walk_packages(outrider.__path__, "outrider."):
        if module.name.startswith(("outrider.models", "outrider.context", "outrider.guidance")):
            import_module(module.name)
    derived = {c for c in ModelWrapper.__subclasses__() if c.__module__.startswith("outrider.")}
    assert derived == set(WRAPPERS)
    named = {kind.__name__ for kind in WRAPPERS} | RUNNERS
    for file in Path(outrider.__file__).parent.rglob("*.py"):
        if "continuous" in file.parts:  # models of real vectors, whose caches hold no tokens
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                verbs = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                assert node.name in named or not {"start", "forward"} <= verbs, file
