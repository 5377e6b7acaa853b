"""`outrider train`: recipes that train models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli.commands.trainings.caches import bottleneck, coprocessor, gates
from outrider.cli.commands.trainings.denoisers import denoiser, unmasking
from outrider.cli.commands.trainings.images import patches
from outrider.cli.options.training import DataFolder, RunFolder, say, stoppable
from outrider.core.errors import OptionError

train = typer.Typer(
    help="Train models: families of language models, draft heads, captioners, adapters.",
    no_args_is_help=True,
)


@train.command()
def family(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Continue an interrupted run, or refuse to."),
    ] = True,
) -> None:
    """Train a target, distill two small models from it, export all three.

    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train family configs/tiny.toml --data data --out runs/tiny
    """
    from outrider.training.family.family import train_family

    with stoppable():
        train_family(config, out=out, resume=resume, data=data)


@train.command()
def head(
    config: Annotated[
        Path, typer.Argument(help="A TOML file, such as configs/heads/smollm2.toml.")
    ],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a draft head: record answers of the target, train on its hidden states, measure.

    Stopped by Ctrl-C and started again, it continues where it stopped.

    For example:

      outrider train head configs/heads/smollm2.toml --data data --out runs/head
      outrider generate "Hello" --target smollm2 --draft runs/head/smollm2-head
    """
    from outrider.training.heads.train import train_head

    with stoppable():
        train_head(config, data=data, out=out, report=say)


@train.command()
def judge(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/judge/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a probe of Judge Decoding: which drafted tokens leave the final answer as it is.

    Tokens of the draft model are put into answers of the target, which finishes them; those that
    change the final answer are important. Texts written with a probe are lossy.

    For example:

      outrider train judge configs/judge/tiny.toml --data data --out runs/judge
      outrider generate "What is 7 + 8?" --rule "judge(probe=runs/judge/tiny-judge)"
    """
    from outrider.training.judge.train import train_judge

    with stoppable():
        train_judge(config, data=data, out=out, report=say)


@train.command()
def stop(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/stop/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a stop head of SpecDec++: where a draft is likely to hold a refused token.

    The head reads hidden states of the draft model. It changes the lengths of drafts only.

    For example:

      outrider train stop configs/stop/tiny.toml --data data --out runs/stop
      outrider generate "Hello" --policy "specdec-plus(head=runs/stop/tiny-stop)"
    """
    from outrider.training.stop.train import train_stop

    with stoppable():
        train_stop(config, data=data, out=out, report=say)


@train.command()
def exits(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/exits/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a draft model with early exits (S2D), and choose a threshold for each target.

    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train exits configs/exits/tiny.toml --data data --out runs/exits
      outrider generate "Hello" --draft runs/exits/tiny-exits --drafter s2d
    """
    from outrider.training.exits.train import train_exits

    with stoppable():
        train_exits(config, data=data, out=out, report=say)


@train.command()
def ppd(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/ppd/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train prompt tokens: embeddings behind which the target guesses further tokens.

    The target answers prompts; its own distributions some tokens ahead are the labels. Only the
    embeddings are trained, and texts do not change.

    For example:

      outrider train ppd configs/ppd/tiny.toml --data data --out runs/ppd
      outrider generate "Hello" --drafter "ppd(prompts=runs/ppd/tiny-ppd)"
    """
    from outrider.training.ppd.train import train_ppd

    with stoppable():
        train_ppd(config, data=data, out=out, report=say)


@train.command()
def lud(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/lud/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Tune a target for Lexical Unit Decoding: an adapter, and a pad behind which it guesses.

    The target answers prompts; spans of which it is confident end in pads, behind which it learns
    to write them at once. The tuned target writes other texts than the target itself.
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train lud configs/lud/tiny.toml --data data --out runs/lud
      outrider generate "Hello" --adapter runs/lud/tiny-lud --drafter "lud(pad=runs/lud/tiny-lud)"
    """
    from outrider.training.lud.train import train_lud

    with stoppable():
        train_lud(config, data=data, out=out, report=say)


@train.command()
def deer(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/deer/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a draft model that predicts a block of masked tokens in one forward.

    The target answers prompts; an ordinary draft model learns to fill masks in the answers, first
    some of the tokens behind a cut, then all of them. Texts of the target do not change.
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train deer configs/deer/tiny.toml --data data --out runs/deer
      outrider generate "Hello" --draft runs/deer/tiny-deer --drafter deer
    """
    from outrider.training.deer.train import train_deer

    with stoppable():
        train_deer(config, data=data, out=out, report=say)


@train.command("vision-family")
def vision_family(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/tiny-vision.toml.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the image sets that the file lists.")
    ] = None,
    out: RunFolder = None,
) -> None:
    """Train a captioner from a language family, its draft model, and a scorer.

    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train vision-family configs/tiny-vision.toml --data data --out runs/tiny-vision
    """
    from outrider.training.vision_family.family import train_vision_family

    with stoppable():
        train_vision_family(config, out=out, data=data)


@train.command()
def vizer(
    model: Annotated[
        str, typer.Argument(help="The captioner: a family (tiny-vision), a folder or a hub name.")
    ],
    images: Annotated[
        list[str], typer.Argument(help="Images, folders or globs. No label is needed.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the adapter is OUT/adapter.")],
    method: Annotated[
        str,
        typer.Option(
            help="g: from images only. gt: the mapper reads given "
            "captions. labels: supervised training on given captions, for comparison."
        ),
    ] = "g",
    captions: Annotated[
        Path | None,
        typer.Option(
            help='For gt and labels: JSON lines, {"image": "a.png", "caption": "..."}; '
            "paths are relative to the file."
        ),
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            help="states: as in the paper, through hidden states. "
            "words: raises the probability of samples whose plain text the mapper places "
            "nearer to the image."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="With words: captions compared per image.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="The question for each image.")] = None,
    loss: Annotated[str | None, typer.Option(help="cosine or infonce.")] = None,
    mapper_images: Annotated[int | None, typer.Option(help="Images of phase A.")] = None,
    mapper_epochs: Annotated[int | None, typer.Option(help="Passes over these images.")] = None,
    mapper_temperature: Annotated[
        float | None, typer.Option(help="Temperature of captions in phase A.")
    ] = None,
    train_images: Annotated[
        int | None, typer.Option(help="Images of phase B; default: all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over these images.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of LoRA.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA; alpha is twice the rank.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of captions in phase B.")
    ] = None,
    kappa: Annotated[
        float | None,
        typer.Option(help="KL weight to the base model. Default: 0.05; with words, 3."),
    ] = None,
    longest: Annotated[
        int | None, typer.Option(help="Largest number of tokens of a caption.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(help="Held-out images, never trained on; they decide when to stop."),
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between two evaluations.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better score before training ends.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
) -> None:
    """Improve a captioner from images alone (ViZer), and save an adapter.

    Phase A fits a small mapper from hidden states of captions to image features.
    Phase B trains LoRA so that captions get closer to the image features.
    Stopped by Ctrl-C and started again, it continues.

    For example:

      outrider train vizer tiny-vision photos/ --out runs/mine
      outrider caption photos/*.jpg --target tiny-vision --adapter runs/mine/adapter
    """
    from outrider.inputs.images.files import find_images
    from outrider.training.vizer.config import VizerConfig
    from outrider.training.vizer.run import Example, read_captions, train_vizer

    given: dict[str, Any] = {
        "through": through,
        "samples": samples,
        "question": question,
        "loss": loss,
        "mapper_images": mapper_images,
        "mapper_epochs": mapper_epochs,
        "mapper_temperature": mapper_temperature,
        "images": train_images,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch": batch,
        "rank": rank,
        "alpha": None if rank is None else 2 * rank,
        "temperature": temperature,
        "kappa": kappa,
        "longest": longest,
        "held_out": held_out,
        "evaluate_every": evaluate_every,
        "patience": patience,
        "seed": seed,
        "device": device,
    }
    config = VizerConfig(method=method, **{k: v for k, v in given.items() if v is not None})
    if captions is not None and method == "g":
        raise OptionError(
            "--captions is given, but method g reads no captions",
            hint="Leave it out, or use --method gt",
        )
    known = {e.path.resolve(): e for e in read_captions(captions)} if captions else {}
    paths = find_images(images)
    examples = [known.pop(path.resolve(), Example(path)) for path in paths]
    if known:
        say(f"{len(known)} captions belong to other images, such as {next(iter(known))}: ignored")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    with stoppable():
        card = train_vizer(model, examples, out, config, say)
    found = card["phase_b"]
    say(
        f"adapter of step {found['best_step']} in {out / 'adapter'}: score {found['best']:.4f}, "
        f"that of the base is {found['base']:.4f}"
    )


for command in (bottleneck, gates, coprocessor, denoiser, unmasking, patches):
    train.command()(command)
