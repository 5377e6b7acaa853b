"""Writes the answers of all items with all methods, one record each, and continues runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from outrider.bench.constraints.records import Record, Records
from outrider.bench.parallel.methods import NamedRule
from outrider.core.errors import OptionError
from outrider.diffusion.denoising import Denoising
from outrider.diffusion.drawing import Drawing
from outrider.diffusion.parallel.catalogue import items, task_named
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.denoisers.loading import load_denoiser
from outrider.models.loading import tokenizer_for
from outrider.models.sources.families import families_folder, family, family_names
from outrider.models.sources.finding import local_folder
from outrider.protocols.denoiser import Denoiser

Told = Callable[[str, int, int], None]
KEYS = ("task", "item", "method")


def open_denoiser(
    target: str, *, dtype: str = "auto", threads: int | None = None
) -> tuple[Denoiser, Tokenizer]:
    """Load a denoiser and its tokenizer.

    Raises:
        OptionError: there is no tokenizer, or the options are faulty.
        UnsupportedCheckpointError: no masked denoiser.
    """
    shipped = target in family_names(families_folder())
    folder = family(target)["target"] if shipped else local_folder(target)
    tokenizer = tokenizer_for(folder)
    if tokenizer is None:
        raise OptionError(f"{target} has no tokenizer", hint="Give another --target")
    return load_denoiser(folder, name=target, dtype=dtype, threads=threads), tokenizer


def write_answers(
    model: Denoiser,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    methods: Sequence[NamedRule],
    *,
    count: int = 25,
    seed: int = 0,
    temperature: float = 0.0,
    out: Path | None = None,
    resume: bool = False,
    told: Told = lambda task, done, total: None,
) -> list[Record]:
    """Write and score the answers; return a record for each item and method.

    All methods write an item before the next one begins, so that the machine is the same for all.

    Args:
        model: the denoiser.
        tokenizer: its tokenizer.
        tasks: names of tasks; items are test items.
        methods: commit rules.
        count: items of a task.
        seed: seed of items and of draws.
        temperature: of the draws.
        out: a file of JSON lines, written as it goes.
        resume: whether records that `out` has are kept.
        told: called with the task, the number of answers, and of all.

    Raises:
        OptionError: an unknown task, or the file cannot be written or read.
    """
    records = Records(out, KEYS, resume=resume)
    found: list[Record] = []
    total = len(tasks) * count * len(methods)
    for task in tasks:
        slot = task_named(task).slot
        for number, item in enumerate(items(task, count, seed=seed)):
            messages = [{"role": "user", "content": item.prompt}]
            prompt: Sequence[int] | None = None
            for method in methods:
                name = f"{seed}/{number}/{temperature}"
                record = records.find(task, name, method.name)
                if record is None:
                    prompt = prompt or tokenizer.chat(messages)
                    request = Denoising(
                        model,
                        prompt,
                        method.rule,
                        max_new_tokens=slot,
                        drawing=Drawing(temperature=temperature, seed=seed + number),
                    )
                    record = {"task": task, "item": name, "method": method.name}
                    record |= _measured(request, tokenizer, item.score)
                    records.add(record)
                found.append(record)
                told(task, len(found), total)
    return found


def _measured(request: Denoising, tokenizer: Tokenizer, score: Callable[[str], float]) -> Record:
    """Run a request; return the score of its answer and what it cost."""
    ids, trace = request.run()
    text = tokenizer.decode(ids[:-1] if request.ended else ids)
    return {
        "score": score(text),
        "ended": request.ended,
        "tokens": trace.tokens,
        "rounds": len(trace),
        "forwards": trace.forwards,
        "rows": trace.rows,
        "bits": trace.bits,
        "seconds": trace.seconds,
        "text": text,
    }
