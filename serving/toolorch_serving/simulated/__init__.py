"""Specialists without keys: an OpenAI-compatible server of models that really solve their questions, or really err."""

from toolorch_serving.simulated.service import SimulatedSpecialists
from toolorch_serving.simulated.specialists import SPECIALISTS, SimulatedSpecialist

__all__ = ["SPECIALISTS", "SimulatedSpecialist", "SimulatedSpecialists"]
