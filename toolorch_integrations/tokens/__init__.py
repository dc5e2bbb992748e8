"""Tokens in, tokens out: a policy is sent token ids, so that a conversation never drifts and stays one path.

With chat completions a server renders the whole conversation anew for every turn. What the policy wrote is tokenised
again, and where it had written a name in other tokens than the tokenizer would, the next prompt does not begin with
the ids that were sampled: the trace forks, and a trainer sees a context that the policy never had. Here the ids of
the conversation so far are held, and only what comes after the last reply is rendered.

It sits below OpenAI clients, as a transport of httpx, so it serves both faces and any other app:

    ChatPolicy(model="orchestrator", base_url=url, tokens=True)                   # LangGraph
    PolicyLLM("orchestrator", url, tokens=True)                                   # LlamaIndex
    OpenAI(base_url=url, http_client=httpx.Client(transport=TokenTransport()))    # anything else

It needs a server with vLLM's three endpoints for it (vLLM 0.32 started with --enable-scale-out, as
`VllmServer(..., training=True)` does, or the embedded engine). The server renders, samples and parses, so tool calls,
reasoning and sampling parameters mean what they mean to its chat endpoint.
"""

from toolorch_integrations.tokens.held import HeldConversations, conversation
from toolorch_integrations.tokens.transport import AsyncTokenTransport, TokenTransport
from toolorch_integrations.tokens.turn import TokenTurns

__all__ = ["AsyncTokenTransport", "HeldConversations", "TokenTransport", "TokenTurns", "conversation"]
