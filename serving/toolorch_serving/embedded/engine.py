"""The engine: one thread that runs the model and batches, token by token, whatever requests there are.

Requests wait in a queue, join the running batch as soon as there is room, and leave it with their last token or when
their client goes away. Own code rather than `transformers`' continuous batching, because that has neither a seed nor
greedy decoding by request, nor stop texts.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded.batch import Batch
from toolorch_serving.embedded.policy_model import PolicyModel
from toolorch_serving.embedded.prefixes import PrefixCache
from toolorch_serving.embedded.request import Finish, Request, Step
from toolorch_serving.embedded.sampling import sample
from toolorch_serving.embedded.text import TextStream

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Engine:
    """Runs a model for many requests at once."""

    def __init__(
        self,
        model: PolicyModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_tokens: frozenset[int],
        max_batch: int = 32,
        prefix_tokens: int = 32768,
    ) -> None:
        """Prepare the engine; `start` starts it.

        Args:
            model: The policy and its adapters.
            tokenizer: Used to turn tokens into text.
            end_tokens: Tokens that end an answer.
            max_batch: Most requests at once; others wait.
            prefix_tokens: Tokens of finished answers whose cache is kept for the next turn.
        """
        self.model = model
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._max_batch = max_batch
        self._inbox: queue.SimpleQueue[Request | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._batch = Batch(model)
        self._prefixes = PrefixCache(prefix_tokens)
        self.version: str | None = None
        """The name that a trainer gave the weights; None: those that were loaded at the start."""
        self.paused = False
        """Whether requests wait instead of joining the batch."""
        self._draining: list[Future[None]] = []
        self._thread = threading.Thread(target=self._run, name="embedded-engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the engine's thread; requests that still run get no more tokens."""
        self._inbox.put(None)
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._inbox.put(request)

    def between_tokens(self, action: Callable[[], T]) -> Future[T]:
        """Have the engine's thread run `action` while no forward pass is under way."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():  # nobody waits any more
                return
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def pause(self) -> Future[None]:
        """Let no more requests begin; the future is done once those that have begun are answered."""
        drained: Future[None] = Future()

        def begin() -> None:
            if not drained.set_running_or_notify_cancel():
                return
            self.paused = True
            self._draining.append(drained)
            self._tell_drained()

        self._inbox.put(begin)
        return drained

    def resume(self) -> Future[None]:
        """Let requests begin again."""

        def go_on() -> None:
            self.paused = False

        return self.between_tokens(go_on)

    def reload(self, path: str) -> None:
        """Take other weights for the same model (engine's thread only, see `between_tokens`).

        Raises:
            ValueError: Requests are under way, or the weights are of another model.
            OSError: The folder holds no model.
        """
        self._let_go()
        if self._running:
            raise ValueError(f"{len(self._running)} requests are under way: pause first")
        self.model.reload(path)
        self._prefixes.clear()

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter (engine's thread only, see `between_tokens`).

        Raises:
            ValueError: Requests still use it.
        """
        self._let_go()
        users = sum(request.adapter == name for request in (*self._running, *self._waiting))
        if users:
            raise ValueError(f"{users} requests still use adapter {name}: wait until they have ended")
        self._prefixes.forget(name)
        self.model.unload_adapter(name)

    def _run(self) -> None:
        while self._receive():
            try:
                self._let_go()
                if self._waiting and not self.paused and len(self._running) < self._max_batch:
                    self._join(self._waiting.popleft())
                    self._let_go()
                if self._running:
                    self._step()
            except Exception as error:
                logger.exception("the forward pass failed; %d requests are given up", len(self._running))
                failed, self._running, self._batch = self._running, [], Batch(self.model)
                for request in failed:
                    request.deliver(error)

    def _receive(self) -> bool:
        """Take in what has come; wait for it only if there is nothing to do. False ends the engine."""
        while True:
            idle = not self._running and (self.paused or not self._waiting)
            try:
                item = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, Request):
                self._waiting.append(item)
            else:
                item()

    def _join(self, request: Request) -> None:
        if request.cancelled:
            return
        request.version = self.version
        sampling = request.sampling
        request.text = TextStream(
            self._tokenizer,
            skip_special=request.skip_special,
            stop=sampling.stop,
            include_stop=sampling.include_stop,
        )
        prefix = self._prefixes.find(request.adapter, request.prompt)
        try:
            if sampling.seed is not None:
                request.generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
            logits = self._batch.join(request.prompt, request.adapter, prefix)
        except Exception as error:
            logger.exception("a prompt of %d tokens could not be read", len(request.prompt))
            request.deliver(error)
            return
        self._running.append(request)
        self._write(request, logits)

    def _step(self) -> None:
        logits = self._batch.step([request.tokens[-1] for request in self._running])
        for request, row in zip(tuple(self._running), logits, strict=True):
            self._write(request, row)

    def _write(self, request: Request, logits: torch.Tensor) -> None:
        """Sample a request's next token and hand it over; what fails with one request is no other's business."""
        try:
            step: Step | Exception = self._sampled(request, logits)
        except Exception as error:
            logger.exception("a token could not be sampled with %s", request.sampling)
            request.cancelled = True
            step = error
        request.deliver(step)

    def _sampled(self, request: Request, logits: torch.Tensor) -> Step:
        assert request.text is not None
        sampling = request.sampling
        seen = request.prompt + request.tokens if sampling.repetition_penalty != 1.0 else ()
        sampled = sample(logits, sampling, seen, request.generator)
        request.tokens.append(sampled.token)
        finish: Finish | None = None
        if sampled.token in self._end_tokens and not sampling.ignore_eos:
            finish = "stop"
        else:
            request.text.add(sampled.token)
            if request.text.stopped_by is not None:
                finish = "stop"
            elif len(request.tokens) >= sampling.max_tokens:
                finish = "length"
        request.cancelled = request.cancelled or finish is not None
        return Step(sampled, request.text.take(last=finish is not None), finish, request.text.stopped_by)

    def _let_go(self) -> None:
        """Let requests leave that are answered, have failed, or that nobody waits for any more."""
        self._leave([request for request in self._running if request.cancelled])
        self._tell_drained()

    def _tell_drained(self) -> None:
        if not self._running:
            for drained in self._draining:
                drained.set_result(None)
            self._draining.clear()

    def _leave(self, gone: list[Request]) -> None:
        if not gone:
            return
        places = [self._running.index(request) for request in gone]
        for request, place in zip(gone, places, strict=True):
            # The last token was sampled but never fed back, so the row ends before it.
            held = (request.prompt + request.tokens)[: self._batch.lengths[place]]
            self._prefixes.add(request.adapter, held, partial(self._batch.row, place))
        self._running = [self._running[before] for before in self._batch.leave(places)]
