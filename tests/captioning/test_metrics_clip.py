"""CLIPScore, and the words that CLIP4DM blames."""

import json
import math
from dataclasses import replace
from itertools import product
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from outrider.captioning.metrics import (
    ClipScorer,
    WordScores,
    calibrate,
    phrase_score,
    word_scores,
)
from outrider.captioning.metrics.misalignment import PREFIX
from outrider.core.errors import CheckpointError, LogitsError, OptionError, OutriderWarning
from tests.captioning import tiny_clip
from tests.captioning.tiny_clip import CAPTIONS, COLORS, noisy

# -- CLIPScore ---------------------------------------------------------------------------------


def test_scores_equal_the_model_s_own_forward(tiny, images) -> None:
    own = tiny.model(
        input_ids=tiny.encode(CAPTIONS).ids,
        pixel_values=tiny.processor(images=images, return_tensors="pt")["pixel_values"],
    )
    cosines = own.logits_per_text.diagonal() / tiny.model.logit_scale.exp()
    expected = 2.5 * cosines.clamp(min=0)
    assert (cosines > 0).any()
    torch.testing.assert_close(tiny.score(images, CAPTIONS), expected.detach())


def test_batches_do_not_matter_and_embeddings_can_be_kept(tiny, images) -> None:
    seen = tiny.embed_images(images)
    torch.testing.assert_close(replace(tiny, batch_size=1).embed_images(images), seen)
    together = tiny.score(seen, CAPTIONS)
    torch.testing.assert_close(replace(tiny, batch_size=1).score(images, CAPTIONS), together)
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(tiny.score(seen, CAPTIONS), together)


def test_images_of_any_mode_and_size_are_read(tiny) -> None:
    modes = [noisy(1, (40, 20)).convert(mode) for mode in ("RGBA", "L", "CMYK", "P", "I;16")]
    assert tiny.embed_images(modes).shape == (5, 16)


def test_a_checkpoint_on_disk_scores_the_same(tiny, images, tmp_path) -> None:
    folder = tiny_clip.save(tiny, tmp_path / "clip")
    loaded = ClipScorer.load(folder, device="cpu")
    assert loaded.name == "clip"
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    torch.testing.assert_close(loaded.score(images, CAPTIONS), tiny.score(images, CAPTIONS))
    [own, *_] = word_scores(loaded, images, CAPTIONS)
    assert own.scores == pytest.approx(word_scores(tiny, images, CAPTIONS)[0].scores)


def test_a_scorer_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="there is no model folder at"):
        ClipScorer.load(tmp_path / "none", device="cpu")


def test_long_captions_are_cut_and_counted(images) -> None:
    short = tiny_clip.scorer(window=12)
    told = short.embed_captions([*CAPTIONS, "x " * 9, "x " * 20])
    assert told.truncated == (1, 4)
    with pytest.warns(OutriderWarning, match="1 captions are longer than the 12 ids"):
        short.score(images, CAPTIONS)


def test_progress_is_told(tiny, images) -> None:
    told: list[tuple[int, int]] = []
    replace(tiny, batch_size=2).embed_images(images, progress=lambda *done: told.append(done))
    assert told == [(2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("images", "captions", "problem"),
    [
        ([], [], "no captions"),
        ([noisy(0)], ["a", "b"], "2 captions, but 1 images"),
        ([noisy(0)], [""], "caption 0 has no words"),
        (["picture.png"], ["a"], "image 0 is a str"),
    ],
)
def test_what_can_not_be_scored_is_refused(tiny, images, captions, problem) -> None:
    with pytest.raises(OptionError, match=problem):
        tiny.score(images, captions)


def test_broken_weights_are_refused(images) -> None:
    broken = tiny_clip.scorer()
    with torch.no_grad():
        broken.model.text_projection.weight[0, 0] = math.nan
    with pytest.raises(LogitsError, match="NaN for caption 0"):
        broken.score(images, CAPTIONS)
    with pytest.raises(LogitsError, match="NaN for caption 0"):
        word_scores(broken, images, CAPTIONS)


def test_a_tokenizer_that_does_not_close_texts_is_refused(tiny) -> None:
    other = tiny_clip.tokenizer()
    other.backend_tokenizer.post_processor = None
    with pytest.raises(CheckpointError, match="does not end texts"):
        ClipScorer(model=tiny.model, processor=tiny.processor, tokenizer=other)


def test_folders_of_something_else_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="cannot load"):
        ClipScorer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="not a model of images and texts"):
        ClipScorer.load(tmp_path)


def test_missing_weights_are_refused(tiny, tmp_path) -> None:
    folder = tiny_clip.save(tiny, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        ClipScorer.load(folder, device="cpu")


def siglip(own: ClipScorer) -> ClipScorer:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = SiglipTextConfig(**sizes, vocab_size=len(own.tokenizer), projection_size=32)
    vision = SiglipVisionConfig(**sizes, image_size=tiny_clip.SIZE, patch_size=8)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    return ClipScorer(model=model, processor=own.processor, tokenizer=own.tokenizer, name="sig")


def test_siglip_scores_whole_windows_and_blames_no_words(tiny, images) -> None:
    own = siglip(tiny)
    ids = own.encode(CAPTIONS).ids
    assert ids.shape == (3, own.window)
    pixels = own.processor(images=images, return_tensors="pt")["pixel_values"]
    logits = own.model(input_ids=ids, pixel_values=pixels).logits_per_text.diagonal()
    cosines = (logits - own.model.logit_bias) / own.model.logit_scale.exp()
    torch.testing.assert_close(
        own.score(images, CAPTIONS), 2.5 * cosines.clamp(min=0).detach(), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(OptionError, match="siglip"):
        word_scores(own, images, CAPTIONS)


# -- CLIP4DM -----------------------------------------------------------------------------------


def test_similarity_equals_the_model_s_own_forward(tiny, images) -> None:
    texts = [PREFIX + caption for caption in CAPTIONS]
    expected = (tiny.embed_images(images) * tiny.embed_captions(texts).vectors).sum(dim=-1)
    found = [own.similarity for own in word_scores(tiny, images, CAPTIONS)]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_words_of_the_caption_alone_are_reported(tiny, images) -> None:
    found = word_scores(tiny, images, CAPTIONS)
    assert found[0].words == ("a", "red", "picture")
    assert found[1].words == ("blue", "green", "and", "it's", "a", "yellow", "t-shirt")
    for caption, own in zip(CAPTIONS, found, strict=True):
        assert tuple(caption[a:b] for a, b in own.spans) == own.words
        assert own.unread == ()


def test_tokenizers_without_a_beginning_lose_no_word(images) -> None:
    other = tiny_clip.tokenizer()
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tiny_clip.END}", special_tokens=[(tiny_clip.END, other.eos_token_id)]
    )
    own = replace(tiny_clip.scorer(), tokenizer=other)
    [found] = word_scores(own, images[:1], ["red picture"], prefix="")
    assert found.words == ("red", "picture")


def slow_relevance(scorer: ClipScorer, image, caption: str, layers: int) -> list[float]:
    """The equation by numbers: each attention entry of the end token nudged, s measured again."""
    encoded = scorer.encode([PREFIX + caption])
    end = int(scorer.ends(encoded.ids)[0])
    seen = scorer.embed_images([image])
    last = list(scorer.model.text_model.encoder.layers)[-layers:]
    heads = scorer.model.config.text_config.num_attention_heads
    found = torch.zeros(end + 1, dtype=torch.float64)

    def similarity(nudge: tuple[int, int, int, float] | None, maps: list | None = None) -> float:
        handles = [
            layer.self_attn.register_forward_hook(nudged(i, nudge, maps), with_kwargs=True)
            for i, layer in enumerate(last)
        ]
        try:
            told = scorer.embed_captions([PREFIX + caption]).vectors
        finally:
            for handle in handles:
                handle.remove()
        return float((told * seen).sum())

    def nudged(layer: int, nudge, maps):
        def hook(module, given, named, output):
            if maps is not None:
                maps.append(output[1])
            if nudge is None or nudge[0] != layer:
                return None
            _, head, column, step = nudge
            hidden = named["hidden_states"] if "hidden_states" in named else given[0]
            values = module.v_proj(hidden).unflatten(-1, (heads, -1))[0, column, head]
            width = values.shape[-1]
            moved = output[0].clone()
            moved[0, end] += step * module.out_proj.weight[:, head * width :][:, :width] @ values
            return moved, output[1]

        return hook

    maps: list = []
    similarity(None, maps)
    for layer in range(layers):
        for head in range(heads):
            for column in range(1, end):
                step = 1e-2  # softmax is in float32 whatever the weights are
                up = similarity((layer, head, column, step))
                down = similarity((layer, head, column, -step))
                slope = (up - down) / (2 * step)
                found[column] += slope * float(maps[layer][0, head, end, column])
    return (found / (layers * heads)).tolist()


def test_scores_are_gradients_times_attention() -> None:
    """Against differences; the scores of pieces are averaged by word."""
    exact = tiny_clip.scorer(dtype=torch.float64, layers=3)
    caption = "a red, x"
    [own] = word_scores(exact, [noisy(0)], [caption], layers=2)
    slow = slow_relevance(exact, noisy(0), caption, 2)
    spans = exact.encode([PREFIX + caption]).spans[0]
    for span, score in zip(own.spans, own.scores, strict=True):
        start, stop = (place + len(PREFIX) for place in span)
        pieces = [i for i, (a, b) in enumerate(spans) if a < b and start <= a and b <= stop]
        assert score == pytest.approx(mean(slow[i] for i in pieces), rel=1e-2, abs=1e-6)
    assert len([i for i, (a, b) in enumerate(spans) if len(PREFIX) + 2 <= a < len(PREFIX) + 5]) == 2


def test_scores_do_not_depend_on_the_batch() -> None:
    exact = tiny_clip.scorer(dtype=torch.float64)
    images = [noisy(i) for i in range(3)]
    together = word_scores(exact, images, CAPTIONS)
    for image, caption, own in zip(images, CAPTIONS, together, strict=True):
        [alone] = word_scores(exact, [image], [caption])
        assert alone.words == own.words
        assert alone.scores == pytest.approx(own.scores, rel=1e-3, abs=1e-7)
        assert alone.similarity == pytest.approx(own.similarity, abs=1e-6)


def test_the_wrong_word_is_blamed_and_the_right_one_is_not() -> None:
    """Same image, captions that differ in one word: that word's score changes most."""
    handmade = tiny_clip.handmade()
    for color, said in product(COLORS, COLORS):
        seen = tiny_clip.seen(color)
        [true] = word_scores(handmade, seen, [f"a {color} picture"])
        [own] = word_scores(handmade, seen, [f"a {said} picture"])
        assert own.similarity > 0.3
        assert true.scores[1] > 1e-3
        assert true.f_score == pytest.approx(0.0, abs=1e-6)
        if said != color:
            assert own.worst == 1
            assert own.below(calibrate([true] * 100)) == (1,)
            assert own.f_score == pytest.approx(own.scores[1] * (1 - own.similarity), rel=1e-3)
            changes = [abs(a - b) for a, b in zip(own.scores, true.scores, strict=True)]
            assert max(changes) == changes[1]


def test_signs_turn_where_the_cosine_is_negative() -> None:
    """As documented: it is why scores of CLIPs that push wrong pairs below 0 are read with care."""
    [own] = word_scores(tiny_clip.handmade(), -tiny_clip.seen("red"), ["a blue picture"])
    assert own.similarity < 0.0 < own.scores[1]


def test_f_score_is_negative_parts_times_distance() -> None:
    own = WordScores(
        words=("a", "b", "c"),
        spans=((0, 1), (2, 3), (4, 5)),
        scores=(-0.2, 0.5, -0.1),
        similarity=0.25,
    )
    assert own.f_score == pytest.approx(-0.3 * 0.75)
    assert own.worst == 0
    assert own.below(-0.15) == (0,)
    assert own.below(0.0) == (0, 2)
    clean = WordScores(words=("b",), spans=((0, 1),), scores=(0.5,), similarity=0.9)
    assert clean.f_score == 0.0
    assert WordScores(words=(), spans=(), scores=(), similarity=0.0).worst is None


def test_words_behind_the_window_have_no_score(images) -> None:
    short = tiny_clip.scorer(window=16)
    found = word_scores(short, images[:1], ["a red picture of a green thing"])[0]
    assert found.words[0] == "a"
    assert found.unread[-1] == "thing"
    assert len(found.words) + len(found.unread) == 7


def test_scoring_leaves_no_trace(tiny, images) -> None:
    """No hooks, no gradients; also for embeddings made in inference mode."""
    with torch.inference_mode():
        seen = tiny.embed_images(images)
    first = word_scores(tiny, seen, CAPTIONS)
    before = num_hooks(tiny)  # transformers has some of its own
    assert all(weight.grad is None for weight in tiny.model.parameters())
    with torch.no_grad():
        assert word_scores(tiny, images, CAPTIONS) == first
    assert num_hooks(tiny) == before


def num_hooks(scorer: ClipScorer) -> int:
    modules = list(scorer.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def scored(values: list[float]) -> WordScores:
    spans = tuple((i, i + 1) for i in range(len(values)))
    return WordScores(words=("w",) * len(values), spans=spans, scores=tuple(values), similarity=0.5)


def test_thresholds_are_percentiles_of_clean_words() -> None:
    clean = [scored([-i / 100, 0.1]) for i in range(101)]
    assert calibrate(clean, share=0.25) == pytest.approx(-0.5, abs=0.01)
    blamed = sum(len(own.below(calibrate(clean, share=0.1))) for own in clean)
    assert blamed == pytest.approx(0.1 * 202, abs=1)
    assert calibrate([scored([0.1] * 200)]) == 0.0


def test_too_few_clean_words_are_refused() -> None:
    with pytest.raises(OptionError, match="99 words"):
        calibrate([scored([0.0] * 99)])
    with pytest.raises(OptionError, match="share"):
        calibrate([scored([0.0] * 99)], share=0.0)


def test_phrases_are_averaged_with_the_caption(tiny, images) -> None:
    seen = tiny.embed_images(images)
    found = phrase_score(tiny, seen, CAPTIONS, [["red", "picture"], [], ["x"]])
    whole = tiny.score(seen, CAPTIONS).tolist()
    parts = tiny.score(seen[[0, 0]], ["red", "picture"]).tolist()
    assert found == pytest.approx([mean([whole[0], *parts]), whole[1], whole[2]])
