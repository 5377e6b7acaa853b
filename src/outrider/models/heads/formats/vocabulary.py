"""The tokens that a head can draft, in the forms of other formats.

`d2t[i]` is the target's id of draft token i, minus i; `t2d[j]` says whether target token j can be
drafted. Rows of the head are in the order of the target's ids. Source: `DraftVocabMixin` of
github.com/vllm-project/speculators; the loaders of vLLM and SGLang (module `llama_eagle3`) read
`d2t` in the same way and ignore `t2d`.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from outrider.core.errors import CheckpointError

_AGAIN = "Download its files again, or convert it again"


def ids_of(
    tensors: Mapping[str, Tensor], draft: int, target: int, where: str
) -> Int[Tensor, " draft"]:
    """Return the target's id of each draft token, int32.

    Args:
        tensors: `d2t` and `t2d`, int64, as far as the files hold them.
        draft: number of tokens that the head drafts.
        target: number of tokens of the target.
        where: the head in messages.

    Raises:
        CheckpointError: they are missing, do not fit each other, or name tokens that do not exist.
    """
    given, marks = tensors.get("d2t"), tensors.get("t2d")
    if given is not None:
        _check_shape("d2t", given, draft, where)
    if marks is not None:
        _check_shape("t2d", marks, target, where)
    if given is None and marks is None and draft != target:
        raise CheckpointError(
            f"the head {where} drafts {draft} of {target} tokens and lacks d2t", hint=_AGAIN
        )
    if given is not None:
        ids = given + torch.arange(draft)
        check_ids("d2t", ids, target, where)
        if bool((ids.diff() <= 0).any()):
            raise CheckpointError(
                f"d2t of the head {where} gives ids that do not ascend", hint=_AGAIN
            )
    elif marks is not None:
        ids = marks.nonzero()[:, 0]
    else:
        ids = torch.arange(target)
    if marks is not None and draft < target and not torch.equal(marks.nonzero()[:, 0], ids):
        raise CheckpointError(
            f"d2t of the head {where} names {draft} tokens, t2d marks {int(marks.sum())} or other "
            "ones",
            hint=_AGAIN,
        )
    if len(ids) != draft:
        raise CheckpointError(
            f"t2d of the head {where} marks {len(ids)} tokens, config.json gives draft_vocab_size "
            f"{draft}",
            hint=_AGAIN,
        )
    return ids.to(torch.int32)


def check_ids(
    name: str, ids: Int[Tensor, " draft"], vocab: int, where: str, least: int = 0
) -> None:
    """Raise `CheckpointError` unless all ids are from `least` to `vocab - 1`."""
    wrong = ids[(ids < least) | (ids >= vocab)]
    if len(wrong):
        raise CheckpointError(
            f"{name} of the head {where} gives id {int(wrong[0])}, expected {least} to {vocab - 1}",
            hint=_AGAIN,
        )


def check_distinct(ids: Int[Tensor, " draft"], where: str) -> None:
    """Raise `CheckpointError` if a token stands twice in `ids`."""
    if len(ids.unique()) != len(ids):
        raise CheckpointError(f"ids of the head {where} gives one id twice", hint=_AGAIN)


def to_offsets(
    ids: Int[Tensor, " draft"], vocab: int
) -> tuple[Int[Tensor, " draft"], Bool[Tensor, " target"]]:
    """Return `d2t` (int64) and `t2d` of ascending ids."""
    marks = torch.zeros(vocab, dtype=torch.bool)
    marks[ids.long()] = True
    return ids.long() - torch.arange(len(ids)), marks


def _check_shape(name: str, tensor: Tensor, size: int, where: str) -> None:
    if tuple(tensor.shape) != (size,):
        raise CheckpointError(
            f"{name} of the head {where} has shape {list(tensor.shape)}, expected [{size}]",
            hint=_AGAIN,
        )
