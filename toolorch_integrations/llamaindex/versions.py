"""A LlamaIndex policy whose version is chosen conversation by conversation: the one that serves, or a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from pydantic import PrivateAttr

from toolorch_integrations.llamaindex.llm import PolicyLLM
from toolorch_integrations.overrides import overrides_for
from toolorch_integrations.versions import VersionRouter, conversation_key


class RoutedPolicyLLM(PolicyLLM):
    """A `PolicyLLM` that asks a router which version answers; `model` only names it.

    `toolorch_integrations.versions.conversation` names the conversation, or else the user's first words do. A
    version that is set around a run (`policy_overrides`) goes before the router: so rollouts and held-out evaluations
    of the same app choose theirs.

    Args:
        router: Chooses the version.
        fields: Those of `PolicyLLM`.
    """

    _router: VersionRouter = PrivateAttr()

    def __init__(self, model: str, api_base: str, *, router: VersionRouter, **fields: Any) -> None:
        super().__init__(model, api_base, **fields)
        self._router = router

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises the class."""
        return "RoutedPolicyLLM"

    def _request(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, stream: bool = False
    ) -> dict[str, Any]:
        request = super()._request(messages, kwargs, stream=stream)
        body = request["body"]
        if "model" not in overrides_for(self.api_base):
            body["model"] = self._router.version_for(conversation_key(body["messages"]))
        return request
