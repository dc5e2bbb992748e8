"""What `promote` and `loop` are both told: where, on which tasks, and what must be shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolorch_integrations.cli.estimate import Wanted
from toolorch_integrations.cli.evaluate import FaceOption, HeldOut
from toolorch_integrations.cli.options import imported
from toolorch_integrations.cli.traces import DEFAULT_STORE, AppName, Store, seconds

if TYPE_CHECKING:
    from toolorch_integrations.cli import held_out as evaluation
    from toolorch_integrations.cli.promote_job import PromoteJob

OWN = "MODULE:FUNCTION"
DAY = 86_400.0


@dataclass(frozen=True)
class PromoteOptions:
    """The options; each says what it is for."""

    server: Annotated[str | None, typer.Option(help="URL of the policy server (.../v1).")] = None
    replica: Annotated[
        list[str] | None,
        typer.Option(help="Where --server is a balancer, URL of a policy server behind it; once for each."),
    ] = None
    name: Annotated[
        str | None, typer.Option("--name", help="The bare policy's name there; by default the first served.")
    ] = None
    base: Annotated[str | None, typer.Option(help="Folder or hub name of the bare policy.")] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="What the server computes in, for the probe; auto: found out."),
    ] = "auto"
    store: Store = DEFAULT_STORE
    app_name: AppName = None
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Held-out tasks, JSON lines; with --run also MODULE:NAME. May be given again."),
    ] = None
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="bfcl:CATEGORY or tau2:DOMAIN, then @FOLDER for a checkout; may be given again."),
    ] = None
    synthesize: Annotated[int | None, typer.Option(min=1, help="Make so many held-out tasks from templates.")] = None
    seed: Annotated[int, typer.Option(help="Of --synthesize.")] = 0
    held_out: HeldOut = None
    split_seed: Annotated[int, typer.Option(help="Decides what is held out.")] = 0
    split_share: Annotated[float, typer.Option(help="Share of what is held out.", min=0.001, max=0.999)] = 0.1
    face: Annotated[FaceOption, typer.Option(help="Which framework runs the held-out tasks.")] = FaceOption.LANGGRAPH
    rendering: Annotated[Literal["chat", "select"], typer.Option(help="select: with langgraph only.")] = "chat"
    specialists: Annotated[
        str, typer.Option(help="Who answers in held-out tasks: simulated, a URL, or a JSON file.")
    ] = "simulated"
    run: Annotated[
        str | None, typer.Option(metavar=OWN, help="Your own app, which takes a held-out task; in place of --face.")
    ] = None
    verifier: Annotated[
        str | None, typer.Option(metavar=OWN, help="With --run: takes task, trace and result; is it solved?")
    ] = None
    concurrency: Annotated[int, typer.Option(help="Held-out runs at a time.", min=1)] = 8
    timeout: Annotated[float, typer.Option(help="Seconds until a held-out run is given up.", min=0.1)] = 300.0
    wanted: Wanted = None
    canary: Annotated[float, typer.Option(min=0.001, max=0.999, help="Share of the live conversations.")] = 0.1
    least: Annotated[int, typer.Option(min=2, help="Conversations of each version before anything is decided.")] = 30
    planned: Annotated[int, typer.Option(min=1, help="Conversations that the canary will about take.")] = 1_000
    most: Annotated[int, typer.Option(min=4, help="Conversations after which it ends.")] = 10_000
    patience: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="Time after which it ends; by default 1d.")
    ] = None
    look_every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at the canary.")] = 30.0
    goal: Annotated[str, typer.Option(help="Metric that must get better.")] = "reward"
    margin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER[%]", help="How much worse a metric may get; may be given again."),
    ] = None

    def needed(self, option: str) -> str:
        """Return an option that has to be given."""
        found: str | None = getattr(self, option)
        if found is None:
            raise typer.BadParameter("is needed", param_hint=f"--{option}")
        return found

    @property
    def replicas(self) -> list[str]:
        """The policy servers themselves, each of which has to hold a version."""
        return self.replica or [self.needed("server")]

    def job(self, name: str, since: float | None = None) -> PromoteJob:
        """Return the promotion that the options describe.

        Args:
            name: The bare policy's name in the server.
            since: The estimate takes traces of the last so many seconds only.
        """
        from toolorch_integrations.cli.promote_job import PromoteJob, criteria_of
        from toolorch_rl.weights import BFLOAT16, FLOAT32
        from toolorch_serving.promotion import CanaryPlan

        return PromoteJob(
            server=self.needed("server"),
            replicas=self.replicas,
            name=name,
            base=self.needed("base"),
            store=self.store,
            held_out=self._held_out(),
            folder=Path("promotions"),
            plan=CanaryPlan(self.canary, self.least, self.planned, self.most, self.patience or DAY),
            criteria=criteria_of(self.goal, self.margin or []),
            precision={"auto": None, "float32": FLOAT32, "bfloat16": BFLOAT16}[self.dtype],
            preferences=self.wanted,
            filters={"app": self.app_name, "since": since},
            look_every=self.look_every,
        )

    def _held_out(self) -> evaluation.HeldOut:
        if self.run is not None:
            return self._own_app(self.run)
        if self.verifier is not None:
            raise typer.BadParameter("goes with --run: other tasks judge themselves", param_hint="--verifier")
        from toolorch_integrations.cli.evaluate_inputs import Sampling, load_tasks
        from toolorch_integrations.cli.evaluate_job import Job
        from toolorch_integrations.cli.held_out import FaceHeldOut
        from toolorch_integrations.entry import Price
        from toolorch_rl.synthesis import Split

        split = None
        if self.held_out is not None:
            split = Split(by=self.held_out, seed=self.split_seed, share=self.split_share)
        files = [Path(text) for text in self.tasks or []]
        tasks = load_tasks(files, self.synthesize, self.seed, split, self.wanted, self.benchmark or [])
        return FaceHeldOut(
            Job(
                policy=self.needed("server"),
                model=None,
                engine="auto",
                dtype="auto",
                sampling=Sampling(1.0, 1024, self.timeout, None, Price(), exact=True),
                face=self.face.value,
                rendering=self.rendering,
                tasks=tasks,
                preferences=self.wanted,
                specialists=self.specialists,
                baselines="none",
                strongest=None,
                seed=0,
                concurrency=self.concurrency,
                store=None,
                results=None,
                fresh=False,
            )
        )

    def _own_app(self, run: str) -> evaluation.HeldOut:
        from toolorch_integrations.cli.held_out import AppHeldOut, app_tasks
        from toolorch_rl.rollouts import RolloutSettings

        for option in ("benchmark", "synthesize", "held_out"):
            if getattr(self, option):
                name = option.replace("_", "-")
                raise typer.BadParameter("does not go with --run: give its tasks with --tasks", param_hint=f"--{name}")
        settings = RolloutSettings(repetitions=1, at_once=self.concurrency, seconds=self.timeout)
        verify = imported(self.needed("verifier"), "--verifier")
        app = imported(run, "--run")
        tasks = app_tasks(self.tasks or [])
        return AppHeldOut(app, verify, tasks, self.needed("server"), self.wanted, settings)
