"""Synthesis of tasks: verified requests in many domains, with golden calls."""

from toolorch_rl.synthesis.conversation import conversation
from toolorch_rl.synthesis.domains import Domain, domain, domains, read_domain
from toolorch_rl.synthesis.make import make, synthesize
from toolorch_rl.synthesis.mix import Mix
from toolorch_rl.synthesis.splits import Split

__all__ = ["Domain", "Mix", "Split", "conversation", "domain", "domains", "make", "read_domain", "synthesize"]
