"""`outrider.load`: from names, numbers and objects to a `Generator`."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from outrider.core.errors import CheckpointError, reject_unknown
from outrider.drafters.neural.growth import Growth
from outrider.engine.build import build
from outrider.engine.generator import Generator
from outrider.engine.long_inputs import GivenSelection
from outrider.engine.options import Models, Reading, Runtime, is_family
from outrider.models.checkpoints.checkpoint import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import (
    ModelSource,
    TokenizerSource,
    family,
    local_folder,
    tokenizer_for,
)
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from outrider.strategy.recipe import Speculation


def load(
    target: ModelSource = "tiny",
    *,
    qualifier: ModelSource | Sequence[ModelSource] | None = None,
    draft: ModelSource | None = None,
    mode: str = "exact",
    drafter: str | Drafter = "auto",
    rule: str | AcceptanceRule | None = None,
    policy: str | DraftPolicy | None = None,
    growth: str | Growth | None = None,
    num_speculative_tokens: int | None = None,
    num_qualified_tokens: int | None = None,
    num_draft_nodes: int | None = None,
    datastore: str | Path | None = None,
    divergence: str = "js",
    threshold_qualifier: float | str | None = None,
    threshold_target: float | str | None = None,
    max_changed: float | None = None,
    dtype: str = "auto",
    device: str = "auto",
    context_length: int | None = None,
    selection: GivenSelection = None,
    selection_on: str = "target",
    guidance: float = 1.0,
    layer_skipping: float = 1.0,
    adapter: str | Path | None = None,
    calibration: str | Path | None = None,
    threads: int | None = None,
    tokenizer: TokenizerSource = None,
    trust_remote_code: bool = False,
    **unknown: object,
) -> Generator:
    """Load models and build a generator.

    Args:
        target: a family that ships with the package (`"tiny"`), a folder, a hub name, or a built
            model. A family brings its qualifier and draft model along.
        qualifier: the middle model; a list, largest first, for deeper cascades; `"none"` to leave
            a family's out.
        draft: the smallest model; likewise.
        mode: `exact`, `distribution`, `assisted`, `fuzzy` or `none`; see `strategy.MODES`.
        drafter: a `Drafter`, or `auto`, `lookup`, `recycling`, `model`, ... (`outrider methods`
            lists them), with options, as `sam(handicap=2)`, and made of others, as
            `switch(sam,recycling,at_least=5)`. `auto` needs no draft model. Where a mode other
            than `exact` or a length below is given, it means the draft model and every qualifier,
            at fixed lengths.
        rule: what the target keeps of a draft: an `AcceptanceRule`, or its name, as
            `typical(epsilon=0.2)`; None is the rule of `mode`.
        policy: how much is drafted: a `DraftPolicy`, or its name, as `confidence(threshold=0.5)`;
            None is `expected-gain` in mode `exact`, and fixed lengths elsewhere.
        growth: how the draft model grows trees: a `Growth`, or its name, as `eagle2(width=6)`, for
            the drafter `model`; None drafts chains.
        num_speculative_tokens: what the draft model drafts at once, always. In mode `exact`, when
            neither length is given, lengths follow costs measured here and acceptance tracked
            while writing; elsewhere the default is 5.
        num_qualified_tokens: what the qualifier collects before the target is called; likewise,
            the default is 10.
        num_draft_nodes: tokens of a tree, for drafters of trees; likewise, the default is 16.
        datastore: what `outrider datastore build` wrote, for the drafters `rest` and `sam`.
        divergence: what the fuzzy rules measure.
        threshold_qualifier: the qualifier's tolerance: a divergence, or a share of positions to
            accept such as `"80%"`, looked up in a calibration.
        threshold_target: the target's tolerance, likewise.
        max_changed: most changed tokens, as a share of the tokens written.
        dtype: of the weights: `auto`, `int8`, `float32`, `bfloat16`, `float16`, `float64`. `auto`
            is bfloat16 on CUDA; on the CPU int8 if that costs less than 1 % of loss, or float32.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        context_length: most tokens of prompt and answer together.
        selection: a `ContextConfig`, or a mapping of its fields: what is read of long inputs
            (`Generator.generate(..., documents=...)`); None reads everything.
        selection_on: `target`: every tier reads a selection. The text is then that of the selected
            target, which is what `mode` promises to keep. `drafters`: the target reads everything,
            and the text does not change.
        guidance: how far the target's choices are pushed towards what its images make likelier
            than it would be unseen (`guidance/classifier_free.py`); 1 is none. Each text is read
            twice. The guided text is what `mode` promises to keep.
        layer_skipping: how many times fewer layers of the target a token of the answer passes
            (Unified Layer Skipping; `models/wrappers/skipping.py`); 1 skips none. The text is
            another than the whole model's. Prompts pass all layers.
        adapter: the folder of a LoRA adapter of the target, in peft's format.
        calibration: a file written by `outrider calibrate`; a family brings its own.
        threads: CPU threads; None measures what is best for each model (and leaves PyTorch's
            choice where PyTorch runs it).
        tokenizer: for built targets; it speaks for every tier without a tokenizer of its own.
        trust_remote_code: run Python that comes with a checkpoint.
        **unknown: refused, each with the nearest name above.

    Raises:
        OutriderError: before any weight is read wherever the problem can be seen that early.
    """
    reject_unknown("option", unknown, OPTIONS)
    models = Models(
        target=target,
        qualifier=qualifier,
        draft=draft,
        adapter=adapter,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    speculation = Speculation(
        mode=mode,
        drafter=drafter,
        rule=rule,
        policy=policy,
        growth=growth,
        num_speculative_tokens=num_speculative_tokens,
        num_qualified_tokens=num_qualified_tokens,
        num_draft_nodes=num_draft_nodes,
        datastore=datastore,
        divergence=divergence,
        threshold_qualifier=threshold_qualifier,
        threshold_target=threshold_target,
        max_changed=max_changed,
        calibration=calibration,
    )
    return build(
        models,
        speculation,
        Runtime(dtype=dtype, device=device, threads=threads, context_length=context_length),
        Reading(
            selection=selection,
            selection_on=selection_on,
            guidance=guidance,
            layer_skipping=layer_skipping,
        ),
    )


def target_tokenizer(target: str | Path) -> Tokenizer:
    """The tokenizer of a target as `load` takes it, without reading a weight.

    Raises:
        CheckpointError: there is no such model, or it has no tokenizer.
    """
    source = family(str(target))["target"] if is_family(target) else local_folder(target)
    open_checkpoint(source)
    found = tokenizer_for(source)
    if found is None:
        raise CheckpointError(
            f"{source} has no tokenizer",
            hint="Copy tokenizer.json and tokenizer_config.json of the original model into it",
        )
    return found


OPTIONS = tuple(name for name in inspect.signature(load).parameters if name != "unknown")
"""Names of what `load` takes."""
