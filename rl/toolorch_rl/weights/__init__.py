"""New policy versions into running servers, each proven by a probe before anybody relies on it.

    publisher = LoraPublisher(server.url, server.name, folder="policies/demo", probe=Probe.random(vocabulary))
    published = publisher.publish("v12", "runs/1/v12")     # serves demo-v12; trainers and apps ask for that name
    published.probe.error                                  # largest difference to the trainer's log-probabilities

`LoraPublisher` gives each version a name of its own: requests in flight end on the version they began with, and traces
hold the name. `ReloadPublisher` replaces all weights, and `NcclPublisher` sends them from GPU to GPU; both let requests
in flight end first. Their server goes on under one name, and says with sampled ids which version sampled them: traces
of policies that are sent token ids (`tokens=True`), and of the embedded engine, hold it.
"""

from toolorch_rl.weights.checkpoints import untie
from toolorch_rl.weights.control import ServerControl
from toolorch_rl.weights.errors import ProbeError, WeightsError
from toolorch_rl.weights.lora import LoraPublisher
from toolorch_rl.weights.nccl import NcclPublisher
from toolorch_rl.weights.probe import BFLOAT16, FLOAT32, Precision, Probe, ProbeResult, Reference
from toolorch_rl.weights.publisher import Published, Publisher
from toolorch_rl.weights.reference import folder_logprobs, model_logprobs
from toolorch_rl.weights.reload import ReloadPublisher

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "LoraPublisher",
    "NcclPublisher",
    "Precision",
    "Probe",
    "ProbeError",
    "ProbeResult",
    "Published",
    "Publisher",
    "Reference",
    "ReloadPublisher",
    "ServerControl",
    "WeightsError",
    "folder_logprobs",
    "model_logprobs",
    "untie",
]
