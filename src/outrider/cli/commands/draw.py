"""`outrider draw`: draws small images, patch by patch."""

from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.options.numbers import share
from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json
from outrider.cli.ui.waiting import Waiting
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.diffusion.continuous.drawing import Drawing


def draw(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A model of patches: a folder from outrider train patches."
        ),
    ],
    out: Annotated[
        Path,
        option(
            panel="Output",
            metavar="FILE",
            help="The image file, such as picture.png; several images become one sheet.",
        ),
    ],
    draft: Annotated[
        Path | None,
        option(
            panel="Drafting",
            metavar="DIR",
            help="A smaller model of patches that was trained with the target.",
        ),
    ] = None,
    count: Annotated[int, option(panel="Images", help="Number of images.", min=1)] = 1,
    seed: Annotated[int, option(panel="Images", help="Seed of all noise.")] = 0,
    mode: Annotated[
        str | None,
        option(
            panel="Drafting",
            help="exact: the images have the distribution of the target's own; published: the "
            "lossy rule of the released code of CSpD; none: the target alone. "
            "Default: exact with --draft, otherwise none.",
        ),
    ] = None,
    length: Annotated[
        int, option(panel="Drafting", help="Patches of a draft.", min=1, max=1000)
    ] = 4,
    prefill: Annotated[
        str,
        option(
            panel="Drafting",
            metavar="SHARE",
            help="Share of an image that the target draws alone at the beginning, such as 15%.",
        ),
    ] = "15%",
    batch: Annotated[int, option(panel="Runtime", help="Images drawn together.", min=1)] = 16,
    threads: Annotated[int, option(panel="Runtime", help="Threads of PyTorch.", min=1)] = 1,
    scale: Annotated[
        int, option(panel="Output", help="Width of a pixel in the file.", min=1, max=64)
    ] = 4,
    json: Annotated[
        bool, option("--json", panel="Output", help="Print the figures as one JSON object.")
    ] = False,
) -> None:
    """Draw small images with a model whose patches are vectors of real numbers.

    A diffusion head draws each patch. With --draft, a smaller model drafts patches with the same
    noise, and the target accepts or replaces them (continuous speculative decoding).
    In mode exact the images have the distribution of the target's own; they are not the same
    images. One line of figures goes to standard error.

    For example:

      outrider draw runs/patches/tiny-patches/target --out picture.png
      outrider draw target --draft draft --count 9 --seed 1 --out sheet.png
      outrider draw target --draft draft --count 9 --mode published --length 8 --out sheet.png
    """
    early = share("prefill", prefill)
    if mode not in (None, "none") and draft is None:
        raise OptionError(f"mode {mode} has no draft model", hint="Give --draft DIR")
    if not out.parent.is_dir():
        raise OptionError(f"there is no folder {out.parent}", hint="Make it, or give another --out")
    screen = Screen()
    with Waiting(screen) as waiting:
        waiting.say("loading models")
        import torch

        from outrider.diffusion.continuous.drawing import draw as draw_images
        from outrider.diffusion.continuous.patches.pictures import (
            check_ending,
            save_picture,
            sheet,
        )

        check_ending(out)
        torch.set_num_threads(threads)
        waiting.say("drawing")
        begun = process_time()
        drawing = draw_images(
            target,
            draft,
            count=count,
            seed=seed,
            mode=mode or ("none" if draft is None else "exact"),
            length=length,
            prefill=early,
            batch=batch,
        )
        seconds = process_time() - begun
        save_picture(sheet(drawing.images), out, scale)
    figures = _figures(drawing, seconds)
    if json:
        print_json({"file": str(out), **figures})
    else:
        screen.note(_sentence(figures) + f"; see {out}")


def _figures(drawing: "Drawing", seconds: float) -> dict[str, int | float | None]:
    counts = drawing.counts
    accepted, rejected = (
        sum(one.accepted for one in counts),
        sum(one.rejected for one in counts),
    )
    return {
        "images": len(counts),
        "patches": drawing.values.shape[1],
        "target_forwards_per_image": sum(one.target_forwards for one in counts) / len(counts),
        "draft_forwards_per_image": sum(one.draft_forwards for one in counts) / len(counts),
        "accepted": accepted,
        "rejected": rejected,
        "acceptance": accepted / (accepted + rejected) if accepted + rejected else None,
        "bounded": sum(one.bounded for one in counts),
        "processor_seconds": round(seconds, 3),
    }


def _sentence(figures: dict[str, int | float | None]) -> str:
    text = (
        f"{figures['images']} images of {figures['patches']} patches, "
        f"{figures['target_forwards_per_image']:.1f} target forwards for each image, "
        f"{figures['processor_seconds']:.1f} s of processor time"
    )
    if (acceptance := figures["acceptance"]) is not None:
        text += f"; {acceptance:.0%} of tested patches accepted"
    if figures["bounded"]:
        text += f"; {figures['bounded']} corrections used up their tries"
    return text
