"""`outrider.load`: builds a `Generator` from names, numbers and objects."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from outrider.core.errors import CheckpointError, reject_unknown
from outrider.drafters.neural.growth import Growth
from outrider.engine.build import build
from outrider.engine.generator import Generator
from outrider.engine.learners.learning import Learning
from outrider.engine.long_inputs import GivenSelection
from outrider.engine.options import Caching, Models, Reading, Runtime, is_family
from outrider.engine.profiles.choosing import profile_for
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import ModelSource, TokenizerSource, tokenizer_for
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, Learner
from outrider.strategy.guiding import GivenGuidance
from outrider.strategy.making import GivenDenoising, GivenKvPolicy
from outrider.strategy.profile import Profile
from outrider.strategy.recipe import Speculation


def load(
    target: ModelSource = "tiny",
    *,
    qualifier: ModelSource | Sequence[ModelSource] | None = None,
    draft: ModelSource | None = None,
    draft_vocabulary: int | None = None,
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
    guard: str = "on",
    dtype: str = "auto",
    cache_dtype: str = "auto",
    device: str = "auto",
    context_length: int | None = None,
    kv_policy: GivenKvPolicy = None,
    kv_budget: float | None = None,
    draft_kv_policy: GivenKvPolicy = None,
    draft_kv_budget: float | None = None,
    selection: GivenSelection = None,
    selection_on: str = "target",
    guidance: GivenGuidance = 1.0,
    layer_skipping: float = 1.0,
    coprocessor: str | Path | None = None,
    denoising: GivenDenoising = None,
    learn: str | Learner | None = None,
    learn_folder: str | Path | None = None,
    adapter: str | Path | None = None,
    calibration: str | Path | None = None,
    threads: int | None = None,
    tokenizer: TokenizerSource = None,
    trust_remote_code: bool = False,
    control_tokens: bool = False,
    profile: str | Path | Profile = "auto",
    **unknown: object,
) -> Generator:
    """Load models and build a generator.

    Args:
        target: a family that ships with the package (`"tiny"`), a known model (`"smollm2"`, see
            `models/sources/known.py`), a folder, a hub name, or a built model. A family includes
            its qualifier and draft model.
        qualifier: the middle model; a list, largest first, for deeper cascades; `"none"` leaves out
            the qualifier of a family.
        draft: the draft model, the smallest of all, or the folder of a draft head; `"none"` leaves
            out that of a family, and a head that ships for the target.
        draft_vocabulary: number of tokens that the draft model can draft, those with the lowest
            ids; its head is smaller then (`models/cpu/reduced.py`). None: all.
        mode: `exact`, `distribution`, `assisted`, `fuzzy` or `none`; see `strategy.MODES`.
        drafter: a `Drafter`, or `auto`, `lookup`, `recycling`, `model`, ... (`outrider methods`
            lists them), with options, such as `sam(handicap=2)`, and combinations of drafters, such
            as `switch(sam,recycling,at_least=5)`. `auto` needs no draft model. With a mode other
            than `exact`, or with a length given below, `auto` uses the draft model and every
            qualifier at fixed lengths.
        rule: which tokens of a draft the target keeps: an `AcceptanceRule`, or its name, such as
            `typical(epsilon=0.2)`; None is the rule of `mode`.
        policy: how many tokens are drafted: a `DraftPolicy`, or its name, such as
            `confidence(threshold=0.5)`; None is `expected-gain` in mode `exact`, and fixed lengths
            in other modes.
        growth: how the draft model grows trees: a `Growth`, or its name, such as `eagle2(width=6)`,
            for the drafter `model`; None drafts chains.
        num_speculative_tokens: tokens that the draft model drafts at once. If neither length is
            given, mode `exact` adapts lengths to measured costs and observed acceptance; other
            modes use 5.
        num_qualified_tokens: tokens that the qualifier collects before the target is called;
            adapted likewise, or 10.
        num_draft_nodes: tokens of a tree, for drafters of trees; adapted likewise, or 16.
        datastore: a store written by `outrider datastore build`, for the drafters `rest` and `sam`.
        divergence: the divergence that the fuzzy rules compute.
        threshold_qualifier: the qualifier's tolerance: a divergence, or a share of positions to
            accept such as `"80%"`, looked up in a calibration.
        threshold_target: the target's tolerance, given in the same way.
        max_changed: largest share of written tokens that may differ from the target's choice.
        guard: `on` switches drafting off where the clock shows that it loses, and on again where it
            gains, in mode `exact` with lengths that adapt; `warn` only says so; `off` does neither,
            and an error of a drafter then ends the request (`policies/guard/`).
        dtype: dtype of the weights: `auto`, `stored` (as in a quantised file), `int8`, `int4`,
            `int8-channels`, `float32`, `bfloat16`, `float16`, `float64`. `auto` is bfloat16 on
            CUDA; on the CPU it is the fastest whose divergence from float32 is at most 0.005.
        cache_dtype: dtype of keys and values on the CPU: `auto`, `float32`, `bfloat16`, `int8` (8
            bits with a scale for each 32 numbers). `auto` is `float32` for weights in float32 and
            for short windows, 8 bits for very long ones, else `bfloat16`, within the same limit on
            the divergence.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        context_length: most tokens of prompt and answer together; `cache_dtype` depends on it.
        kv_policy: which rows of a text the cache of the target keeps: a `KvPolicy`, or its name,
            such as `snapkv(window=32,budget=0.3)` (`outrider methods --kind kv-policy`). The text
            is that of another model, which reads fewer rows: `lossy`, whatever drafts. None keeps
            all rows.
        kv_budget: the budget of that policy: a share of the rows, up to 1, or a number of rows.
        draft_kv_policy: the same for every model below the target, except draft heads. It changes
            acceptance, and never the text of mode `exact`.
        draft_kv_budget: the budget of that policy.
        selection: a `ContextConfig`, or a mapping of its fields: which parts of long inputs are
            read (`Generator.generate(..., documents=...)`); None reads everything.
        selection_on: `target`: every tier reads a selection, and `mode` guarantees the text of a
            target that reads only the selection. `drafters`: the target reads everything, and the
            text does not change.
        guidance: how the scores of several models or prompts are mixed: a method such as
            `Guidance.contrastive(amateur="./small", alpha=0.1)` or its text form (`outrider
            methods` lists them); or a number, the scale of classifier-free guidance: how strongly
            tokens are preferred that the images, or the prompt, make more likely; 1 is no guidance.
            The guarantee of `mode` refers to the guided text.
        layer_skipping: factor by which the layers that run for a token of the answer are reduced
            (Unified Layer Skipping; `models/wrappers/skipping.py`); 1 skips none. The text differs
            from that of the full model. Prompts pass all layers.
        coprocessor: the folder that `outrider train coprocessor` writes: behind each prompt,
            latents are written into the target's cache (`models/latents/augmented.py`). The
            guarantee of `mode` refers to the text of the target with latents, which differs from
            that without them. It needs a second copy of the target's weights.
        denoising: which positions a masked denoiser writes in a round: a `Diffusion`, or its name,
            such as `threshold(block=16,cache=dual)` (`outrider methods --kind diffusion`). None is
            `threshold` for a masked denoiser. `none` writes from left to right, a token for each
            forward, as mode `none` does. `max_new_tokens` is the number of positions.
        learn: what is learned while requests run: `osd`, with options such as `osd(rate=3e-4)`,
            trains the draft model at the places where the target corrects it (Online Speculative
            Decoding; `Generator.learner`); or a `Learner`. The guarantee of `mode` stays.
        learn_folder: where the trained draft model is stored, after every 16 updates and when a
            server ends; training continues from there. None stores nothing.
        adapter: the folder of a LoRA adapter of the target, in peft's format.
        calibration: a file written by `outrider calibrate`; a family includes one.
        threads: CPU threads; None measures the best number for each model (models that PyTorch runs
            keep PyTorch's number).
        tokenizer: for built targets; also used for every tier without a tokenizer.
        trust_remote_code: run Python that comes with a checkpoint.
        control_tokens: read the text of a control token (`<|im_end|>`) in a chat message as that
            token. By default it is plain text, so that a message cannot end its own turn.
        profile: what `outrider tune` measured: a `Profile`, its file, `none`, or `auto`: one in the
            cache that was measured for these models, options and this machine. `auto` uses one only
            if nothing is chosen about drafting: mode, drafter, rule, policy, lengths, `learn`,
            `selection`, `guidance`, `adapter`, `coprocessor`, policies of caches.
            `Generator.profile` is what is used.
        **unknown: refused; the message suggests the nearest name above.

    Raises:
        OutriderError: the options are invalid or a model cannot be loaded. Where possible it is
            raised before any weight is read.
    """
    reject_unknown("option", unknown, OPTIONS)
    models = Models(
        target=target,
        qualifier=qualifier,
        draft=draft,
        draft_vocabulary=draft_vocabulary,
        adapter=adapter,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        control_tokens=control_tokens,
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
        guard=guard,
    )
    runtime = Runtime(
        dtype=dtype,
        cache_dtype=cache_dtype,
        device=device,
        threads=threads,
        context_length=context_length,
        caching=Caching.of(kv_policy, kv_budget, draft_kv_policy, draft_kv_budget),
    )
    reading = Reading(
        selection=selection,
        selection_on=selection_on,
        guidance=guidance,
        layer_skipping=layer_skipping,
        coprocessor=coprocessor,
    )
    learning = Learning(learn=learn, learn_folder=learn_folder)
    used, speculation = profile_for(profile, models, speculation, runtime, reading, learning)
    generator = build(models, speculation, runtime, reading, learning, denoising)
    if used is not None:
        generator.profile = used
        generator.limit(used.schedule)
    return generator


def target_tokenizer(target: str | Path) -> Tokenizer:
    """Load the tokenizer of a target as given to `load`, without reading weights.

    Raises:
        CheckpointError: the model does not exist, or it has no tokenizer.
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
"""Names of the options of `load`."""
