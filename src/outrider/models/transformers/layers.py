"""Finds the layers of a model of `transformers`, to skip some or to read their outputs.

Layers are found by attribute names that most architectures use, and the result is tested once: a
layer with both halves left out must return its input, and the final norm and the head must turn the
output of the last layer into the model's logits. Otherwise the model is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module, ModuleList
from transformers import PreTrainedModel

from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "block_sparse_moe", "feed_forward")
_NORM = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "final_norm")
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

Read = Callable[[], Tensor]
"""Runs the model over a few tokens and returns its logits, `[1, rows, vocab]`."""


@dataclass(frozen=True, slots=True)
class LayerModules:
    """The modules of one model.

    Attributes:
        layers: the layers, in order.
        attention: their attention halves.
        mlp: their MLP halves.
        norm: the norm after the last layer.
        head: maps normed states to logits.
        results: number of values that each half returns, if more than one.
    """

    layers: Sequence[Module]
    attention: Sequence[Module]
    mlp: Sequence[Module]
    norm: Module
    head: Module
    results: dict[Module, int]

    @contextmanager
    def only(self, kept: LayerSet) -> Iterator[None]:
        """Context manager: halves not in `kept` add nothing. Not safe for two threads at once."""
        with ExitStack() as stack:
            for half, layers in ((self.attention, kept.attention), (self.mlp, kept.mlp)):
                for index in set(range(kept.num_layers)).difference(layers):
                    stack.enter_context(self._silenced(half[index]))
            yield

    @contextmanager
    def _silenced(self, module: Module) -> Iterator[None]:
        count = self.results.get(module, 1)

        def nothing(*args: Any, **kwargs: Any) -> Any:
            zeros = torch.zeros_like(_hidden(args, kwargs))
            return zeros if count == 1 else (zeros, *[None] * (count - 1))

        module.forward = nothing
        try:
            yield
        finally:
            del module.forward

    @contextmanager
    def heard(self) -> Iterator[list[Tensor]]:
        """Context manager: collect the output of each layer, `[1, rows, hidden]` each."""
        heard: list[Tensor] = []
        with _hooked(self.layers, lambda _module, _inputs, out: heard.append(_first(out))):
            yield heard

    def read_out(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocab"]:
        """Apply the final norm and the head."""
        return self.head(self.norm(states))


@torch.no_grad()
def find_layers(model: PreTrainedModel, name: str, read: Read) -> LayerModules:
    """Find the modules of a causal `transformers` model.

    Raises:
        StrategyError: they are not found, or they fail the tests.
    """
    decoder = model.get_decoder()
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [child for child in decoder.children() if isinstance(child, ModuleList)]
    layers = next((list(found) for found in lists if len(found) == count), None)
    norm, head = _child(decoder, _NORM), model.get_output_embeddings()
    if layers is None or norm is None or not isinstance(head, Module):
        raise refusal(name, "no list of layers, final norm and head were found in it")
    halves = [[_child(layer, names) for layer in layers] for names in (_ATTENTION, _MLP)]
    attention, mlp = ([module for module in half if module is not None] for half in halves)
    if len(attention) + len(mlp) < 2 * count:
        raise refusal(name, "its layers are not made of an attention and an MLP module")
    modules = LayerModules(layers, attention, mlp, norm, head, {})
    _check_end(modules, name, read)
    _check_silence(modules, name, read)
    return modules


def _check_end(modules: LayerModules, name: str, read: Read) -> None:
    """Count the results of the halves, and compare the read-out of the last layer with logits."""

    def count(module: Module, _inputs: Any, out: Any) -> None:
        if isinstance(out, tuple):
            modules.results[module] = len(out)

    with _hooked([*modules.attention, *modules.mlp], count), modules.heard() as heard:
        logits = read()
    own = modules.read_out(heard[-1])
    size = _TOLERANCE.get(logits.dtype, 3e-2) * (1 + float(logits.abs().max()))
    if own.shape != logits.shape or not float((own - logits).abs().max()) <= size:
        raise refusal(name, "its logits differ from the head applied to the final norm")


def _check_silence(modules: LayerModules, name: str, read: Read) -> None:
    """Check that a layer without its halves changes nothing."""
    last = len(modules.layers) - 1
    got: list[Tensor] = []
    hook = modules.layers[last].register_forward_pre_hook(
        lambda _module, args, kwargs: got.append(_hidden(args, kwargs)), with_kwargs=True
    )
    try:
        with ExitStack() as stack:
            for half in (modules.attention[last], modules.mlp[last]):
                stack.enter_context(modules._silenced(half))
            heard = stack.enter_context(modules.heard())
            read()
    finally:
        hook.remove()
    if not torch.equal(got[0], heard[last]):
        raise refusal(name, "a layer without its halves changes its input")


def refusal(name: str, why: str) -> StrategyError:
    """Build the error for a model whose layers cannot be separated."""
    return StrategyError(
        f"model {name} cannot draft with its own layers: {why}",
        hint="Use a Llama-shaped model, or another drafter",
    )


@contextmanager
def _hooked(modules: Iterable[Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _child(module: Module, names: Sequence[str]) -> Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((child for child in found if isinstance(child, Module)), None)


def _hidden(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
