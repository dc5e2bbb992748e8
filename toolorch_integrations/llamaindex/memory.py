"""A chat memory that a context can keep.

`ChatMemoryBuffer`, LlamaIndex's default, does not serialise with pydantic 2.14: a context that is used again or stored
would lose the conversation, with a warning at most.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore


class KeptMemory(ChatMemoryBuffer):
    """A `ChatMemoryBuffer` over a `SimpleChatStore` that serialises message by message."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises the class."""
        return "KeptMemory"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the memory as JSON-safe values."""
        assert isinstance(self.chat_store, SimpleChatStore)
        messages = {
            key: [message.model_dump(mode="json") for message in messages]
            for key, messages in self.chat_store.store.items()
        }
        return {"token_limit": self.token_limit, "chat_store_key": self.chat_store_key, "messages": messages}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> KeptMemory:
        """Read what `to_dict` gave."""
        store = SimpleChatStore()
        for key, messages in data["messages"].items():
            store.set_messages(key, [ChatMessage.model_validate(message) for message in messages])
        return cls(token_limit=data["token_limit"], chat_store_key=data["chat_store_key"], chat_store=store)


def kept(memory: Any) -> Any:
    """Return a memory in the class that serialises, with the same messages; anything else as it is."""
    if type(memory) is not ChatMemoryBuffer or type(memory.chat_store) is not SimpleChatStore:
        return memory
    return KeptMemory(
        token_limit=memory.token_limit,
        tokenizer_fn=memory.tokenizer_fn,
        chat_store=memory.chat_store,
        chat_store_key=memory.chat_store_key,
    )


async def keep(ctx: AgentContext, memory: BaseMemory) -> None:
    """Have a context keep its memory: the same messages, in a class that serialises."""
    own = kept(memory)
    if own is not memory:
        await ctx.store.set("memory", own)
