"""Processes that serve: policies (vLLM or the embedded engine) and simulated specialists."""
