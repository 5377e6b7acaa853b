"""Whether a head belongs to a target. Weights are not compared: those of a GGUF file differ."""

from outrider.core.errors import OutriderError, StrategyError, VocabularyError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import HeadFile
from outrider.protocols.model import LanguageModel


def check_verifier(
    file: HeadFile,
    target: LanguageModel,
    checkpoint: Checkpoint | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Raise an error unless the head reads states, and drafts tokens, of this target.

    Args:
        file: the head.
        target: the model that will verify its drafts.
        checkpoint: the files of the target, whose architecture is compared; None: it is not.
        tokenizer: the target's, whose entries are compared; None: they are not.

    Raises:
        StrategyError: the target returns no states, or they have another size or number.
        VocabularyError: the vocabulary has another size, or other entries.
    """
    states, name, config = target.hidden_states, target.info.name, file.config
    if states is None:
        raise StrategyError(
            f"the target {name} does not return its hidden states, which its head reads",
            hint="Load it with the compiled runner, or draft without a head",
        )
    if states.width != config.target_width:
        raise _wrong(file, f"reads states of size {config.target_width}", f"{states.width}", name)
    if config.target_vocab != target.info.vocab_size:
        found = f"{target.info.vocab_size}"
        raise _wrong(
            file, f"expects {config.target_vocab} tokens", found, name, kind=VocabularyError
        )
    if max(config.states) > states.num_layers:
        most = f"{states.num_layers} as its last state"
        raise _wrong(file, f"reads state {max(config.states)}", most, name)
    if config.kind is HeadKind.EAGLE3 and states.num_layers in config.states:
        raise StrategyError(
            f"the head of format {file.format} reads the output of the last layer before the final "
            f"norm (state {states.num_layers}), which {name} does not return",
            hint="Choose a head that reads states of earlier layers",
        )
    if config.kind in (HeadKind.MEDUSA, HeadKind.CLOVER) and config.states != (states.num_layers,):
        last = f"{states.num_layers} as its last state"
        raise _wrong(file, f"reads state {config.states[0]}", last, name)
    ours = tuple(checkpoint.config.get("architectures") or ()) if checkpoint is not None else ()
    theirs = file.verifier.architectures
    if ours and theirs and set(ours).isdisjoint(theirs):
        raise _wrong(file, f"was trained for {theirs[0]}", ours[0], name)
    expected = file.verifier.tokenizer
    if expected is not None and tokenizer is not None and tokenizer.fingerprint != expected:
        raise VocabularyError(
            f"the tokenizer of {name} has other entries than that of the target of this head"
            f"{_named(file)}",
            hint="Choose a head for this target",
        )


def _wrong(
    file: HeadFile,
    what: str,
    found: str,
    name: str,
    kind: type[OutriderError] = StrategyError,
) -> OutriderError:
    return kind(
        f"the head{_named(file)} {what}, {_called(name)} has {found}",
        hint="Choose a head for this target",
    )


def _named(file: HeadFile) -> str:
    known = file.verifier.name_or_path
    return f" for {known:.100}" if known else ""


def _called(name: str) -> str:
    """Return how a message calls the target; `load` names it by its tier."""
    return "the target" if name == "target" else f"the target {name}"
