"""One turn of a conversation by token ids: which requests it takes, and what their answers mean. No input or output.

A chat request becomes four requests, all to the same server: render it; find in the rendering what comes after the
policy's last reply; have the held ids, followed by that, continued; have the sampled ids parsed.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from toolorch_integrations.tokens.held import Held, HeldConversations
from toolorch_integrations.tokens.reply import (
    GENERATE,
    RENDER,
    Ask,
    completion_of,
    end_of,
    has_reasoning,
    parse,
)

logger = logging.getLogger(__name__)

Steps: TypeAlias = Generator[Sequence[Ask], list[dict[str, Any]], dict[str, Any]]
"""Yields requests that may run at once, is sent their answers, and returns a chat completion."""


class RefusedError(Exception):
    """A request that cannot be served by token ids; it becomes a response with status 400."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.body = {"error": {"message": message, "type": "BadRequestError", "param": parameter, "code": 400}}


class TokenTurns:
    """The turns of all conversations of a transport.

    Attributes:
        rewritten: How often the chat template wrote history anew, so that held ids could not be used.
    """

    def __init__(
        self, held: HeldConversations | None = None, on_rewrite: Literal["render", "refuse"] = "render"
    ) -> None:
        """Prepare.

        Args:
            held: Where conversations are held; transports that share it continue each other's.
            on_rewrite: What to do where the chat template changes what stands before the new messages (by leaving out
                earlier reasoning, say): `render` sends the whole conversation as it is rendered now, which begins
                another path; `refuse` answers with an error.
        """
        self._held = held if held is not None else HeldConversations()
        self._on_rewrite = on_rewrite
        self._end: int | None = None
        self.rewritten = 0

    def steps(self, request: Mapping[str, Any]) -> Steps:
        """Take one chat request to its completion.

        The completion has one key more than a server's: `held_tokens`, how many ids of the prompt were held.

        Raises:
            RefusedError: The request asks for something that token ids cannot give.
        """
        _check(request)
        body = {key: value for key, value in request.items() if key not in ("stream", "stream_options")}
        messages = body["messages"]
        found = self._held.find(messages)
        asks = [Ask(RENDER, body)]
        if found is not None and found[0].reasoned:
            so_far = {**body, "messages": messages[: found[1]], "add_generation_prompt": False}
            asks.append(Ask(RENDER, so_far))
        order, *earlier = yield asks
        rendered = array("I", order["token_ids"])
        before = array("I", earlier[0]["token_ids"]) if earlier else None
        prompt, kept = self._prompt(found[0] if found is not None else None, rendered, before)
        (generated,) = yield [Ask(GENERATE, _order(body, order, prompt))]
        choice = generated["choices"][0]
        end = end_of(choice)
        parsed = yield parse(body, generated, prompt, end)
        completion = completion_of(body, generated, parsed[0] if parsed else None, prompt, kept)
        self._end = end if end is not None else self._end
        reply = completion["choices"][0]["message"]
        held = Held(prompt + array("I", choice["token_ids"]), rendered, end, has_reasoning(reply))
        self._held.add(messages, reply, held)
        return completion

    def _prompt(self, held: Held | None, rendered: array[int], before: array[int] | None) -> tuple[array[int], int]:
        """Return the ids to send, and how many of them were held."""
        if held is None:
            return rendered, 0
        end = held.end if held.end is not None else self._end
        if end is None:  # The reply was cut off, and no other has shown how one ends.
            return rendered, 0
        start = after_reply(held, rendered, before, end)
        if start is not None:
            # A reply that was cut off gets the end that the template writes.
            return held.ids + rendered[start if held.end is not None else start - 1 :], len(held.ids)
        self.rewritten += 1
        said = (
            "the chat template has changed what stands before the new messages (it may leave out earlier reasoning), "
            "so the ids that were sampled cannot be continued"
        )
        if self._on_rewrite == "refuse":
            raise RefusedError(f"{said}: use a prefix-preserving template, or on_rewrite='render'", "messages")
        if self.rewritten == 1:
            logger.warning(
                "%s: the conversation is rendered whole, and its trace forks. Further cases: rewritten", said
            )
        return rendered, 0


def after_reply(held: Held, rendered: array[int], before: array[int] | None, end: int) -> int | None:
    """Return where, in a whole rendering, the first id after a held reply stands.

    A reply ends with `end`, and so may messages of other roles; the held rendering tells how many ends come before
    the reply, whatever tokens the reply itself is rendered with.

    Args:
        held: The conversation up to the reply.
        rendered: The conversation with new messages and the generation prompt.
        before: The conversation up to the reply, rendered anew. Where given, `rendered` has to begin with it.
        end: The token that ends a reply.

    Returns:
        None where the template does not preserve what stands before.
    """
    ends = held.rendered.count(end)
    stop = _nth(rendered, end, ends + 1)
    whole = _nth(held.rendered, end, ends)  # Behind it stands only how a reply begins, which templates vary.
    if stop is None or whole is None or rendered[:whole] != held.rendered[:whole]:
        return None
    if before is not None:
        reply = _nth(before, end, ends + 1)
        if reply is None or before[:reply] != rendered[:stop]:
            return None
    return stop


def _nth(ids: array[int], token: int, count: int) -> int | None:
    """Return the index behind the n-th occurrence of a token; 0 for none, None where there are fewer."""
    at = 0
    for _ in range(count):
        try:
            at = ids.index(token, at) + 1
        except ValueError:
            return None
    return at


def _check(request: Mapping[str, Any]) -> None:
    if not isinstance(request.get("messages"), list) or not request["messages"]:
        raise RefusedError("messages must hold at least one message", "messages")
    if (request.get("n") or 1) != 1:
        raise RefusedError("n must be 1 where the policy is sent token ids: send a request for each answer", "n")
    if request.get("stop"):
        # The server would parse the ids behind the stop text, too.
        raise RefusedError("stop has no meaning where the policy is sent token ids: use stop_token_ids", "stop")


def _order(body: Mapping[str, Any], order: Mapping[str, Any], prompt: array[int]) -> dict[str, Any]:
    sampling = dict(order["sampling_params"])
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        sampling["max_tokens"] = max(1, sampling["max_tokens"] + len(order["token_ids"]) - len(prompt))
    return {**order, "sampling_params": sampling, "token_ids": prompt.tolist(), "token_offsets": None, "stream": False}
