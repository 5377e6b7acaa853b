"""`outrider info --supported`: every table of the code is in the list."""

from outrider.models.checkpoints.gguf.architectures import ARCHITECTURES
from outrider.models.checkpoints.packed.reading import FORMATS
from outrider.models.llama.families import FAMILIES
from outrider.models.llama.text_stack import WRAPPERS
from tests.cli.conftest import Run


def test_the_list_is_that_of_the_tables(run: Run) -> None:
    found = run("info", "--supported", "--json").json
    native = {one["model_type"]: one for one in found["native"]}
    assert set(native) == set(FAMILIES) and all(one["called"] for one in native.values())
    listed = {name for one in native.values() for name in one["gguf"]}
    assert listed == set(ARCHITECTURES)
    assert native["gemma3_text"]["gguf"] == ["gemma3"] and native["mistral"]["gguf"] == ["llama"]
    assert set(found["image_text"]) == set(WRAPPERS)
    assert set(found["quantised"]) == set(FORMATS) and "Q4_K" in found["blocks"]
    refused, theirs = found["refused"], set(found["transformers"])
    assert {"gpt2", "opt", "cohere2"} <= theirs and not theirs & (refused.keys() | native.keys())
    assert "recurrent state" in refused["mamba"] and "ALiBi" in refused["bloom"]
    assert "encoder-decoder" in refused["bart"] and "chunked_attention" in refused["llama4"]
    assert not refused.keys() & (FAMILIES.keys() | WRAPPERS.keys())


def test_for_people(run: Run) -> None:
    shown = run("info", "--supported")
    assert (shown.code, shown.err) == (0, "")
    assert "Gemma 3" in shown.out and "recurrent state" in shown.out and "gpt2" in shown.out


def test_a_model_or_the_list_is_asked_for(run: Run) -> None:
    shown = run("info")
    assert shown.code != 0 and "--supported" in shown.err
