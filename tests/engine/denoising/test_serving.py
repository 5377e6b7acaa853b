"""Requests of a masked denoiser in the engine of a server."""

from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.sampling import SamplingParams
from tests.engine.serving.setups import COSTS


def test_texts_are_those_of_single_requests(writer: Generator) -> None:
    events: list[Event] = []
    engine = Engine(writer, publish=events.extend, costs=COSTS)
    prompts = {"a": "Once upon a time", "b": "The cat", "c": "A"}
    for name, prompt in prompts.items():
        params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=4)
        engine.submit(Submission(id=name, prompt=writer.prompt(prompt), params=params, n=2))
    engine.submit(
        Submission(
            id="d",
            prompt=writer.prompt("A"),
            params=SamplingParams(max_new_tokens=12, repetition_penalty=1.5, seed=1),
        )
    )
    for _ in range(60):
        engine.step()
        if not engine.busy:
            break
    ended = {(e.id, e.index): e for e in events if isinstance(e, Ended)}
    pieces = [e for e in events if isinstance(e, Piece)]
    for name, prompt in prompts.items():
        alone = writer.generate(prompt, max_new_tokens=12, temperature=1.0, seed=4, n=2)
        for index, one in enumerate(alone):
            found = ended[name, index].result
            assert found is not None and found.token_ids == one.token_ids
            own = [p for p in pieces if (p.id, p.index) == (name, index)]
            assert sum((p.token_ids for p in own), ()) == one.token_ids
            assert "".join(p.text for p in own) == one.text
    assert ended["d", 0].failure == "invalid_request"
    assert "repetition_penalty" in ended["d", 0].message


def test_a_request_that_leaves_does_not_change_others(writer: Generator) -> None:
    events: list[Event] = []
    engine = Engine(writer, publish=events.extend, costs=COSTS)
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=4)
    for name in ("a", "b"):
        engine.submit(Submission(id=name, prompt=writer.prompt("The cat"), params=params))
    engine.step()
    engine.cancel("a")
    for _ in range(40):
        engine.step()
    ended = {e.id: e for e in events if isinstance(e, Ended)}
    alone = writer.generate("The cat", max_new_tokens=12, temperature=1.0, seed=4)
    assert ended["a"].result is not None and ended["a"].result.finish_reason == "cancelled"
    assert ended["b"].result is not None and ended["b"].result.token_ids == alone.token_ids
