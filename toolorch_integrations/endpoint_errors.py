"""What is wrong with a policy endpoint, in words that say what to do about it."""

from __future__ import annotations

from toolorch_integrations.errors import EndpointError


def explain(error: Exception) -> EndpointError:
    """Say what is wrong with a policy endpoint, and whether the same request may succeed later.

    Args:
        error: What a model client raised. Clients made by the generator of OpenAI's name it `APIConnectionError` (a
            timeout is one, too), or give it a `status_code`; of any other error its own words are kept.
    """
    if isinstance(error, EndpointError):
        return error
    text = f"{type(error).__name__}: {error}"
    if any(base.__name__ == "APIConnectionError" for base in type(error).__mro__):
        return EndpointError(
            f"The policy endpoint cannot be reached ({text}). Is it running? `toolorch serve policy MODEL` starts one.",
            retryable=True,
        )
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status < 500 and status != 429:
        fix = (
            " Start the server with tool calling: `toolorch serve policy MODEL`, or vLLM's "
            "--enable-auto-tool-choice --tool-call-parser hermes."
            if "tool" in str(error).lower()
            else ""
        )
        return EndpointError(f"The policy endpoint refused the request ({text}).{fix}")
    return EndpointError(f"The policy failed ({text}).", retryable=True)
