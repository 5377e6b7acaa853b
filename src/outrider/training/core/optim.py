"""Optimizers for small transformers: Muon for hidden matrices, AdamW for the rest."""

from torch import nn, optim
from torch.optim import Optimizer


def make_optimizers(model: nn.Module, name: str) -> dict[str, Optimizer]:
    """Build optimizers by name, with a learning rate of zero: the loop sets it before each step.

    With Muon, a small model needs about two thirds of the tokens that AdamW needs. Its update is
    scaled to AdamW's root mean square, so that both share one learning rate.
    """
    named = dict(model.named_parameters())
    hidden = [p for key, p in named.items() if p.ndim == 2 and not _of_vocabulary(key)]
    rest = [p for key, p in named.items() if p.ndim != 2 or _of_vocabulary(key)]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    made: dict[str, Optimizer] = {
        f"{name}.adamw": optim.AdamW(
            rest, lr=0.0, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0, fused=fused
        )
    }
    made[f"{name}.muon"] = optim.Muon(
        hidden, lr=0.0, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return made


def _of_vocabulary(name: str) -> bool:
    """Whether a parameter has a row for each token: an embedding, or a head that is not tied."""
    return "embed" in name or name.startswith("lm_head.")
