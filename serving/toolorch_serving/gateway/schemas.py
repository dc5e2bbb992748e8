"""Bodies of the gateway's own answers and requests, for OpenAPI and for checking what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from toolorch_integrations.entry import Price
from toolorch_integrations.events import TraceStatus

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]


class Health(BaseModel):
    """Whether the gateway takes requests."""

    status: Literal["ok", "draining"]
    in_flight: int


class Model(BaseModel):
    """An orchestrator, or a model of the policy server."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = ""


class Models(BaseModel):
    """What `model` of a request may be."""

    object: Literal["list"] = "list"
    data: list[Model]


class CatalogEntry(BaseModel):
    """A tool or specialist."""

    name: str
    kind: Literal["tool", "specialist"]
    description: str
    price: Price
    latency: float | None
    destructive: bool
    capabilities: list[str]


class CatalogList(BaseModel):
    """What an orchestrator may call."""

    data: list[CatalogEntry]


class Totals(BaseModel):
    """Sums over a trace."""

    turns: int
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float
    seconds: float


class TraceHead(BaseModel):
    """A captured run without its graph. In listings request and answer are cut."""

    id: str
    status: TraceStatus
    started: float
    ended: float | None
    app: str
    framework: str
    thread_id: str
    request: str
    answer: str
    error: str
    preferences: dict[str, Any] | None
    budget: dict[str, Any] | None
    policy_versions: list[str]
    exact: bool
    totals: Totals
    metadata: dict[str, Any]


class TraceList(BaseModel):
    """A page of traces, newest first."""

    data: list[TraceHead]
    next: str | None
    """`before` of the next page; null: there is none."""


class Token(BaseModel):
    """A token of a message."""

    id: int
    logprob: float | None
    text: str | None
    """Null where the policy server does not say."""


class TurnView(BaseModel):
    """The model call that sampled a message."""

    model: str
    agent: str
    is_policy: bool
    seconds: float
    dollars: float
    sampling: dict[str, Any]
    usage: dict[str, Any]
    finish_reason: str
    logprobs_mode: str


class NodeView(BaseModel):
    """A message of the graph, and the tokens that it adds."""

    index: int
    parent: int | None
    role: str
    content: Any
    tool_calls: list[dict[str, Any]]
    tool_call_id: str | None
    exact: bool
    tokens: list[Token]
    turn: TurnView | None


class CallView(BaseModel):
    """A tool or specialist call, or a policy call that failed."""

    name: str
    kind: str
    status: str
    model: str
    input_tokens: int
    output_tokens: int
    dollars: float
    seconds: float
    started: float
    node: int | None
    call_id: str
    arguments: Any
    result: str
    error: str
    confirmed: bool


class FeedbackView(BaseModel):
    """What somebody thought of a run."""

    id: str
    name: str
    score: float | None
    comment: str
    source: str
    created: float


class RewardView(BaseModel):
    """A reward vector."""

    values: dict[str, float | None]
    verifier: str
    created: float


class TraceDetail(TraceHead):
    """A whole captured run."""

    nodes: list[NodeView]
    calls: list[CallView]
    feedback: list[FeedbackView]
    rewards: list[RewardView]


class FeedbackRequest(BaseModel):
    """What somebody thinks of a run."""

    model_config = ConfigDict(extra="forbid")

    trace_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    score: float = Field(ge=0, le=1, description="0: of no use, 1: as good as it can be.", allow_inf_nan=False)
    name: Name = "user"
    comment: Annotated[str, StringConstraints(max_length=10_000)] = ""


class FeedbackCreated(BaseModel):
    """The feedback's id."""

    id: str


class RoutingBucket(BaseModel):
    """What runs that began within a span of time did."""

    start: float
    seconds: float
    """Sum of the calls' wall clocks."""
    runs: int
    dollars: float
    calls: dict[str, int]
    """By tool or specialist."""
    versions: dict[str, int]
    """Runs by policy version."""


class Routing(BaseModel):
    """Routing over time, oldest first; spans without a run are left out."""

    buckets: list[RoutingBucket]


class VersionStep(BaseModel):
    """A step of a promotion."""

    candidate: str
    incumbent: str
    step: str
    reason: str
    time: float
    share: float
    evidence: dict[str, Any]


class VersionsView(BaseModel):
    """Who serves, and how it came to be; `history` has the newest first."""

    current: str | None
    candidate: str | None
    share: float
    served: list[str]
    served_error: str | None
    """Why `served` is empty, where the policy server cannot be asked."""
    history: list[VersionStep]


class PromoteRequest(BaseModel):
    """A decision by hand."""

    model_config = ConfigDict(extra="forbid")

    version: Name
    reason: Reason


class RollBackRequest(BaseModel):
    """A decision by hand."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
