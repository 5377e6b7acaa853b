import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from outrider.training.core.copy_tasks import copy_task
from outrider.training.core.formats import FORMATS, SPECIAL_TOKENS, chat
from outrider.training.core.prompts import messages
from outrider.training.core.tokenizer import save_tokenizer, train_tokenizer

PASSAGE = (
    "The old miller had three sons. The eldest received the mill and was content with it. "
    "The second was given a donkey to carry his goods. But the youngest found nothing except a "
    "striped cat beside the oven. He sighed and stroked her ears."
)


def one(name: str, record: dict[str, object]) -> str:
    (document,) = FORMATS[name](record, random.Random(0))
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([PASSAGE] * 5 + ["12345 67"], 400), path, 128)
    return path


def test_the_template_writes_what_training_reads(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [("user", "Hello"), ("assistant", "Hi there"), ("user", "Bye")]
    conversation = [{"role": "system", "content": "Be brief."}]
    conversation += [{"role": role, "content": text} for role, text in turns]
    made = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert made == chat(turns, system="Be brief.")
    asked = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert asked == made + "<|assistant|>\n"


def test_special_tokens_and_digits_are_single(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert len(tokenizer("12345", add_special_tokens=False).input_ids) == 5
    text = chat([("user", "Käse & 12\n\n  x"), ("assistant", "日本")])
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=False) == text


def test_story_questions_carry_their_passage() -> None:
    record = {
        "sections": ["First part.", "Second part."],
        "qa": [
            {"q": "Who?", "a": "Ann", "section": "2, 1"},
            {"q": "Why?", "a": "So", "section": ""},
        ],
    }
    tale, second, first = FORMATS["story_qa"](record, random.Random(0))
    assert tale == "First part.\n\nSecond part."
    assert second.startswith("<|user|>\nRead this passage")
    assert "Second part.\n\nWho?<|end|>\n<|assistant|>\nAnn<|end|>\n" in second
    assert "First part.\n\nWhy?<|end|>" in first


def test_calls_are_json_at_the_head_of_the_answer() -> None:
    call = {"before_turn": 1, "method": "Find", "parameters": {"city": "Rome"}}
    turns = [{"role": "user", "text": "Eat"}, {"role": "assistant", "text": "Where?"}]
    made = one("service_calls", {"turns": turns, "calls": [call]})
    line = made.split("<|assistant|>\n")[1].split("\n")[0]
    assert json.loads(line) == {"name": "Find", "arguments": {"city": "Rome"}}


def test_broken_requests_are_left_out() -> None:
    calls = [{"api_call": "a", "request": '{"x": '}, {"api_call": "b", "request": "{}"}, {}]
    turns = [
        {"role": "user", "text": "Coffee", "calls": calls[:2]},
        {"role": "assistant", "text": "Done"},
    ]
    assert one("order_calls", {"turns": turns}).endswith(
        '<|assistant|>\n{"name": "b", "arguments": {}}\nDone<|end|>\n'
    )


def test_sums() -> None:
    worked = one("worked_sum", {"question": "2+2?", "solution": "2+2=4", "answer": "4"})
    assert worked == "<|user|>\n2+2?<|end|>\n<|assistant|>\n2+2=4\nThe answer is 4.<|end|>\n"
    short = one("short_sum", {"question": "q", "equation": "( 7.0 - 2.0 )", "answer": "5"})
    assert "( 7 - 2 ) = 5<|end|>" in short


@pytest.mark.parametrize("seed", range(30))
def test_copy_tasks_answer_from_the_text(seed: int) -> None:
    (document,) = copy_task({"text": PASSAGE}, random.Random(seed))
    asked = messages(document)[0]["content"]
    answer = document.split("<|assistant|>\n")[1].removesuffix("<|end|>\n")
    words, known = answer.split(), asked.split()
    changed = [word for word in words if word not in known]
    assert words
    assert len(changed) <= 2
