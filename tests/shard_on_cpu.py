"""`toolorch_rl.training` with weights sharded on processors.

accelerate shards on GPUs only, and trains with copies of the model elsewhere, though FSDP2 itself runs on gloo. Here it
is told that it has GPUs once the processes have found each other, so that what is sharded can be tested without any.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from toolorch_rl.training import TrainSettings, trainers
from toolorch_rl.training.__main__ import main

arguments_of = trainers.arguments_of


def sharding_arguments_of(settings: TrainSettings) -> Any:
    arguments = arguments_of(settings)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return arguments


trainers.arguments_of = sharding_arguments_of
sys.exit(main(sys.argv[1:]))
