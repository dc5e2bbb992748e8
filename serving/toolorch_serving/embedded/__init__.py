"""The embedded engine: an OpenAI-compatible policy server over transformers, for machines without vLLM."""

from toolorch_serving.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
