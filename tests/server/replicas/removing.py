"""Removes one of two replicas of Ray Serve while both write; prints what was written."""

import json
import sys
import threading
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import outrider
from outrider.engine.serving.checked import checked
from outrider.engine.serving.messages import Ended, Event, Piece, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.server.replicas.ray_serve import Plan, running
from outrider.server.replicas.remote import RemoteEngine, ReplicaSettings
from tests.engine.serving.setups import until

REQUESTS = 24


def main(prompt: str, tokens: int, options: dict[str, Any]) -> None:
    """Send requests before, while and after a replica is removed."""
    from ray import serve  # pyright: ignore[reportMissingImports]

    load = partial(outrider.load, "tiny", threads=1, dtype="int8")
    plan = Plan(replicas=2, threads=1, load=load, settings=ServingSettings())
    events: list[Event] = []

    def publish(some: Sequence[Event]) -> None:
        events.extend(some)

    generator = load()
    with running(plan) as replicas:
        engine = RemoteEngine(replicas, ReplicaSettings(answer=4.0), publish=publish)
        engine.start()
        assert until(lambda: engine.state.cache_size > 0, 30)
        given = generator.prompt(prompt)
        params = checked(generator, given, {"max_new_tokens": tokens, **options})

        def submit(number: int) -> None:
            now = perf_counter()
            engine.submit(Submission(id=f"r{number}", prompt=given, params=params, received=now))

        for number in range(REQUESTS // 2):
            submit(number)
        assert until(lambda: len(events) > 40, 30)
        removing = threading.Thread(target=serve.delete, args=("engine-1",))
        removing.start()
        for number in range(REQUESTS // 2, REQUESTS):
            submit(number)
        assert until(lambda: len(ends(events)) == REQUESTS, 120), len(ends(events))
        removing.join()
        names = sorted(serve.status().applications)
        engine.stop()
    found = {
        "ids": [ids(events, f"r{number}") for number in range(REQUESTS)],
        "failures": [end.failure for end in ends(events)],
        "running": names,
    }
    print(json.dumps(found), flush=True)


def ends(events: Sequence[Event]) -> list[Ended]:
    """Return the ends of samples."""
    return [event for event in list(events) if isinstance(event, Ended)]


def ids(events: Sequence[Event], id: str) -> list[int]:
    """Return the tokens of a request."""
    return [t for e in events if isinstance(e, Piece) and e.id == id for t in e.token_ids]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
