"""A head that does not belong to its target is refused in one line."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from outrider.core.errors import OutriderError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.verifying import check_verifier
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from tests.models.heads.formats.setups import tiny
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.runners import load

LAYERS, WIDTH, VOCAB = 4, 32, 288
NAMED = Verifier(name_or_path="maker/target", architectures=("LlamaForCausalLM",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("target")
    return open_checkpoint(make_checkpoint(folder, num_hidden_layers=LAYERS, tokenizer=True))


@pytest.fixture(scope="module")
def target(checkpoint: Checkpoint) -> Decoder:
    return load("decoder", checkpoint)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.load(checkpoint.path)


def head(
    kind: HeadKind = HeadKind.HINTED, verifier: Verifier = NAMED, **changes: object
) -> HeadFile:
    """Return a head for the target, without its tensors."""
    sizes = {"target_width": WIDTH, "target_vocab": VOCAB} | changes
    return HeadFile(config=tiny(kind, **sizes), tensors={}, verifier=verifier, format="hinted")


def test_a_head_of_this_target_passes(
    target: Decoder, checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    named = replace(NAMED, tokenizer=tokenizer.fingerprint)
    check_verifier(head(verifier=named), target, checkpoint, tokenizer)
    check_verifier(head(verifier=Verifier()), target, checkpoint, tokenizer)
    check_verifier(head(HeadKind.EAGLE3, states=(1, 2, 3)), target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: head(target_width=16),
            "the head for maker/target reads states of size 16, the target .* has 32",
        ),
        (lambda: head(target_vocab=40), "expects 40 tokens, the target .* has 288"),
        (lambda: head(states=(1, 5)), "reads state 5, the target .* has 4 as its last state"),
        (lambda: head(HeadKind.EAGLE3, states=(1, 4)), "the last layer before the final norm"),
        (
            lambda: head(verifier=replace(NAMED, architectures=("Qwen3ForCausalLM",))),
            "was trained for Qwen3ForCausalLM, the target .* has LlamaForCausalLM",
        ),
        (lambda: head(verifier=replace(NAMED, tokenizer="ab")), "has other entries than that of"),
    ],
)
def test_a_head_of_another_target_gives_one_line(
    target: Decoder,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    make: Callable[[], HeadFile],
    message: str,
) -> None:
    with pytest.raises(OutriderError, match=message) as caught:
        check_verifier(make(), target, checkpoint, tokenizer)
    assert "\n" not in str(caught.value)
    assert caught.value.hint.startswith("Choose a head")


def test_a_target_without_states_is_refused() -> None:
    model = TabularModel.random(vocab_size=8)
    with pytest.raises(OutriderError, match="does not return its hidden states"):
        check_verifier(head(), model)
