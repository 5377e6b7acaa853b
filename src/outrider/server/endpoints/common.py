"""What the endpoints that write text share: from a request to submissions, and the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic_core import to_json

from outrider.core.errors import OptionError, OutriderError
from outrider.core.types import Prompt
from outrider.engine.prompt_size import places_of
from outrider.engine.requests import room_for_answer
from outrider.engine.serving.checked import checked
from outrider.engine.serving.messages import Submission
from outrider.sampling import SamplingParams
from outrider.sampling.constraint import Constraint, Gate
from outrider.server.answers.job import Job
from outrider.server.answers.writer import Json, Writer
from outrider.server.constraints.fields import Asked, asked_by, ignored_by, refused
from outrider.server.context import Asker, Context, asker_of, context_of
from outrider.server.errors import ApiError, from_outrider, invalid, unsupported
from outrider.server.http.answering import EventStream, Exchange, whole
from outrider.server.http.body import read_json
from outrider.server.ids import new_id
from outrider.server.limits import check_queue
from outrider.server.logs import log_request
from outrider.server.media.replacing import fetch_images
from outrider.server.prompts.parameters import sampling_options
from outrider.server.prompts.speculation import may_draft
from outrider.server.schema.base import Body, parse
from outrider.server.schema.sampling import SamplingBody

B = TypeVar("B")
M = TypeVar("M", bound=Body)
T = TypeVar("T", bound=SamplingBody)

IGNORED = "x-outrider-ignored-fields"
"""Header of answers that names fields of the request which have no effect."""

_TIERS = {"flex": 1}
"""Classes of `service_tier`, relative to the best that a key has; lower is preferred."""


@dataclass(slots=True, kw_only=True)
class Accepted(Generic[B]):
    """A request whose body fits its model.

    Attributes:
        request: as it came.
        context: the server.
        asker: who sent it.
        body: what it asks for.
        ignored: fields that have no effect.
        asked: the grammar of its text, and the field that gave it; None: the text is free.
    """

    request: Request
    context: Context
    asker: Asker
    body: B
    ignored: list[str]
    asked: Asked | None = None


async def accept(request: Request, model: type[M], *, fetch: bool = True) -> Accepted[M]:
    """Read and check a request.

    Args:
        request: as it came.
        model: of its body.
        fetch: images at other hosts are fetched, if there are hosts that may be asked.

    Raises:
        ApiError: the server accepts no work, or the body is wrong.
    """
    context, asker = context_of(request), asker_of(request)
    if (refusal := context.life.refusal()) is not None:
        context.metrics.refused(refusal.code)
        raise refusal
    data = await read_json(request, context)
    body, ignored = await context.prepare(
        lambda: _checked(model, data, context.settings.unknown_fields)
    )
    check_model(context, getattr(body, "model", None))
    if fetch and context.media is not None:
        await fetch_images(body, context.media)
    return Accepted(request=request, context=context, asker=asker, body=body, ignored=ignored)


def _checked(model: type[M], data: object, unknown: str) -> tuple[M, list[str]]:
    """Check a body of any size against its model; for a thread of the pool."""
    body = parse(model, data)
    return body, body.check_fields(unknown)


def check_model(context: Context, name: str | None) -> None:
    """Raise `ApiError` 404 if the server has no model of this name."""
    if name is not None and name not in context.settings.model_names:
        known = ", ".join(context.settings.model_names)
        message = f"the model {name!r:.80} does not exist here. Known: {known}"
        raise ApiError(404, "model_not_found", message, "model")


def submissions_for(
    accepted: Accepted[Any],
    prompts: Sequence[Prompt],
    *,
    param: str,
    shown: frozenset[int] = frozenset(),
    score_prompt: int | None = None,
    prediction: tuple[int, ...] = (),
    gate: Gate | None = None,
    calls: Constraint | None = None,
) -> tuple[Submission, ...]:
    """Return what the engine is asked to do; for a thread of the pool.

    Args:
        accepted: the request; its body is a `SamplingBody`.
        prompts: its prompts.
        param: the field that holds them, for errors.
        shown: special tokens that the text holds.
        score_prompt: log-probabilities of the prompt are wanted, with this many alternatives.
        prediction: tokens of the predicted text.
        gate: where in the text its grammar begins.
        calls: the grammar of an answer with calls.

    Raises:
        ApiError: an option is out of range, or a prompt does not fit.
    """
    context, body = accepted.context, accepted.body
    generator, settings = context.generator, context.settings
    if (n := body.n or 1) > settings.max_n:
        raise invalid(f"n is {n}. Give at most {settings.max_n}", "n")
    recommended = dict(generator.defaults.sampling or {})
    options = sampling_options(body, recommended, context.info.vocab_size)
    options |= _constrained(accepted, gate, calls)
    prompts = [_cut(prompt, body, context) for prompt in prompts]
    target = generator.strategy.target
    if score_prompt is not None and not all(map(target.info.reads_in_parts, prompts)):
        why = "the prompt holds images, or documents in parts, or the model is guided by prompts"
        raise unsupported("prompt_logprobs", why)
    try:
        params = [checked(generator, prompt, options) for prompt in prompts]
        places = [places_of(prompt, target) for prompt in prompts]
        params = [_fitted(*pair, context.window) for pair in zip(params, places, strict=True)]
    except OutriderError as error:
        raise from_outrider(error, param) from None
    draft = may_draft(body.speculation, generator)
    received = accepted.asker.received
    first = settings.first_token_timeout
    return tuple(
        Submission(
            id=new_id("sub"),
            prompt=prompt,
            params=own,
            places=taken,
            n=n,
            principal=accepted.asker.principal(body.safety_identifier or body.user),
            salt=_salt(accepted.asker, body, context),
            priority=_priority(accepted.asker, body),
            draft=draft,
            prediction=prediction,
            shown=shown,
            score_prompt=score_prompt,
            received=received,
            first_token_by=None if first is None else received + first,
            begin_by=received + settings.queue_timeout,
            finish_by=received + settings.request_timeout,
        )
        for prompt, own, taken in zip(prompts, params, places, strict=True)
    )


def job_of(accepted: Accepted[T], kind: str, submissions: tuple[Submission, ...]) -> Job[T]:
    """Return what an answer is built from; its identifier begins with `kind`."""
    context, body = accepted.context, accepted.body
    id = f"{kind}-{body.request_id}" if body.request_id else new_id(kind)
    accepted.asker.facts.answer, accepted.asker.facts.model = id, body.model
    return Job(
        id=id,
        model=body.model,
        fingerprint=context.fingerprint,
        body=body,
        submissions=submissions,
        n=submissions[0].n,
        tokenizer=context.tokenizer,
        texts=context.texts,
    )


async def answered(
    accepted: Accepted[Any], submissions: Sequence[Submission], writer: Writer
) -> Response:
    """Send submissions to the engine, and return the answer, or its stream.

    Raises:
        ApiError: too many requests wait, or the engine ended the request.
        ClientLeft: the client closed the connection.
    """
    context, body = accepted.context, accepted.body
    _check_queue(context, submissions)
    if (asked := accepted.asked) is not None:
        context.metrics.constrained(asked.constraint.kind)
        submissions = await _with_grammar(context, asked, submissions)
        _check_queue(context, submissions)
    headers = ignored_header(accepted.ignored)
    context.ignored.note(accepted.ignored)
    facts = accepted.asker.facts
    facts.submissions, facts.stream = submissions, bool(body.stream)
    for one in submissions:
        context.metrics.submitted(one)
    exchange = Exchange(context, context.client.submit(submissions), writer, headers)
    ending = _ending(accepted)
    if body.stream:
        return EventStream(exchange, ending)
    try:
        answer = await whole(exchange, accepted.request.receive)
        return json_response(answer, headers)
    finally:
        ending(exchange)


def _constrained(
    accepted: Accepted[Any], gate: Gate | None, calls: Constraint | None
) -> dict[str, Any]:
    """Return the option that holds the grammar of a request, if there is one.

    Args:
        accepted: the request.
        gate: where in the text the grammar of its fields begins.
        calls: the grammar of its calls, which only requests without one of their own have.

    Raises:
        ApiError: it is not valid, or exceeds a limit.
    """
    context = accepted.context
    accepted.ignored += ignored_by(accepted.body)
    asked = asked_by(accepted.body)
    if asked is not None:
        asked = Asked(asked.constraint.within(gate), asked.field)
    elif calls is not None:
        asked = Asked(calls, "tools")
    else:
        return {}
    try:
        context.generator.grammars.limits.check(asked.constraint)
    except OptionError as error:
        context.metrics.grammar_refused("limit")
        raise refused(error, asked.field) from None
    accepted.asked = asked
    return {"constraint": asked.constraint}


async def _with_grammar(
    context: Context, asked: Asked, submissions: Sequence[Submission]
) -> Sequence[Submission]:
    """Return submissions when their grammar is compiled; they have not waited in the queue.

    Raises:
        ApiError: the grammar is refused.
    """
    begun = perf_counter()
    await context.admission.admit(asked)
    waited = perf_counter() - begun
    return [
        one if one.begin_by is None else replace(one, begin_by=one.begin_by + waited)
        for one in submissions
    ]


def _check_queue(context: Context, submissions: Sequence[Submission]) -> None:
    """Raise `ApiError` if too much waits."""
    try:
        check_queue(context.client, submissions, context.settings)
    except ApiError as error:
        context.metrics.refused(error.code)
        raise


def json_response(data: Json, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in one piece."""
    return Response(to_json(data), media_type="application/json", headers=headers)


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """Return the header that names fields without effect."""
    if not names:
        return {}
    text = ", ".join(name.encode("unicode_escape").decode() for name in names)
    return {IGNORED: text[:1000].strip()}


def _ending(accepted: Accepted[Any]) -> Callable[[Exchange], None]:
    """Return what happens at the end of a request: a line in the log, and metrics."""
    asker = accepted.asker
    facts = {
        "id": asker.request_id,
        "path": accepted.request.url.path,
        "key": asker.key.name if asker.key is not None else None,
        "address": asker.address,
        "stream": bool(accepted.body.stream),
        "user": accepted.body.safety_identifier or accepted.body.user,
    }

    def end(exchange: Exchange) -> None:
        results = [ended.result for ended in exchange.ends if ended.result is not None]
        if accepted.asked is not None:
            for result in results:
                if result.finish_reason == "stop" and not accepted.body.stops:
                    accepted.context.admission.check(accepted.asked.constraint, result.text)
        if results:
            accepted.context.metrics.finished(max(len(r.token_ids) for r in results))
        outcome = exchange.outcome or "disconnected"
        asker.facts.ends, asker.facts.outcome = exchange.ends, outcome
        log_request(facts, exchange.ends, outcome, exchange.phase)

    return end


def _fitted(params: SamplingParams, places: int, window: int) -> SamplingParams:
    """Return the parameters with a limit that the caches have room for.

    Raises:
        ContextError: they have no room for the prompt.
    """
    room = room_for_answer(places, window)
    return replace(
        params,
        max_new_tokens=min(params.max_new_tokens, room),
        min_new_tokens=min(params.min_new_tokens, room),
    )


def _cut(prompt: Prompt, body: SamplingBody, context: Context) -> Prompt:
    """Cut the begin of a prompt, if the request asks for it."""
    most = body.truncate_prompt_tokens
    if most is None or prompt.image_prompt is not None:
        return prompt
    if prompt.context is not None:
        reason = "the prompt holds documents, of which a selection is read"
        raise unsupported("truncate_prompt_tokens", reason)
    if most == 0:
        raise invalid("truncate_prompt_tokens is 0. Give at least 1", "truncate_prompt_tokens")
    most = context.window - 1 if most < 0 else most
    other = prompt.contrast and Prompt(token_ids=prompt.contrast.token_ids[-most:])
    return Prompt(token_ids=prompt.token_ids[-most:], contrast=other)


def _salt(asker: Asker, body: SamplingBody, context: Context) -> str:
    own = "" if context.settings.prefixes_across_keys else asker.salt
    return f"{own}/{body.cache_salt}" if body.cache_salt else own


def _priority(asker: Asker, body: SamplingBody) -> int:
    """Return the class of a request: what it asks for, and at best what its key allows."""
    best = asker.best_class
    asked = (
        best + _TIERS.get(body.service_tier or "", 0) if body.priority is None else body.priority
    )
    return max(asked, best)
