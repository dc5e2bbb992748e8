"""A LangChain policy whose version is chosen conversation by conversation: the one that serves, or a candidate."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import LanguageModelInput
from pydantic import Field

from toolorch_integrations.langgraph.chat_model import ChatPolicy, thread_of_run
from toolorch_integrations.overrides import overrides_for
from toolorch_integrations.versions import VersionRouter, conversation_key


class RoutedChatPolicy(ChatPolicy):
    """A `ChatPolicy` that asks a router which version answers; `model` only names it.

    A conversation is a LangGraph thread; where there is none, `toolorch_integrations.versions.conversation` names it,
    or else the user's first words do. A version that is set around a run (`policy_overrides`) goes before the router:
    so rollouts and held-out evaluations of the same app choose theirs.

    Args:
        router: Chooses the version.

    Example:
        >>> records = PromotionRecords(TraceStore.open("traces.db"))  # doctest: +SKIP
        >>> router = VersionRouter(lambda: records.routes("policy-v1"))  # doctest: +SKIP
        >>> policy = RoutedChatPolicy(model="policy-v1", base_url=url, router=router)  # doctest: +SKIP
    """

    router: Any = Field(exclude=True)

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        router: VersionRouter = self.router
        if "model" not in overrides_for(self.openai_api_base):
            payload["model"] = router.version_for(conversation_key(payload["messages"], thread_of_run()))
        return payload
