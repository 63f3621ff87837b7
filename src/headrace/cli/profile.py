"""`headrace profile`: every task of a workload on every tier, for real, and how well it did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Annotated

import typer
from rich.progress import TimeRemainingColumn

from headrace.cli.errors import EXIT_FAILED
from headrace.cli.generation import MemoryOption, ThreadsOption
from headrace.cli.interrupts import EXIT_INTERRUPTED
from headrace.cli.plan_files import ProfileOption, WorkloadArgument, choose, open_journal
from headrace.cli.plan_progress import ProfileView, profile_progress
from headrace.cli.progress import ensure_model
from headrace.cli.progress_views import count_view, write_line
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import Config
from headrace.core.errors import ConfigError, HeadraceError, ModelFileError, ModelNotFound
from headrace.core.frozen import frozen
from headrace.hub.model_store import ModelStore
from headrace.launch.tier_backends import (
    OpenTier,
    open_local_tier,
    open_remote_tier,
    open_scoring_encoder,
    read_upstream_key,
)
from headrace.planner.journal import Journal
from headrace.planner.judge import Scorer
from headrace.planner.profiler import Ask, Profiler, missing
from headrace.planner.scoring import missing_scores, score_answers
from headrace.planner.step_times import RUNS, StepRun, measure_steps
from headrace.planner.workload import Call, Tier, Workload
from headrace.planner.workload_file import read_workload


def profile(
    workload_file: WorkloadArgument,
    tiers: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Tiers to ask, with commas between. Default: all."),
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Tasks and merged calls to ask. Default: all."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Lines of the data per call. Default: all."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests at a time; part of what is measured.")
    ] = 1,
    steps: Annotated[
        bool,
        typer.Option("--steps/--no-steps", help="Time steps by batch size too, for `capacity`."),
    ] = True,
    profile_file: ProfileOption = None,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Ask every tier every task and write down tokens, times and answers.

    What is written already is not asked again, so an interrupted run goes on where it was, and
    more --samples add to the ones before. Tiers that only have a price are not asked.
    """
    workload = read_workload(workload_file)
    real = tuple(name for name, tier in workload.tiers.items() if tier.stands_in is None)
    chosen = [workload.tiers[name] for name in choose(tiers, real, "--tiers")]
    known = tuple(call.name for call in workload.calls)
    wanted = [workload.call(name) for name in choose(calls, known, "--calls")]
    journal = open_journal(workload_file, profile_file, is_new=True)
    settled = {"engine.memory_bytes": memory, "engine.num_threads": threads}
    run = _Run(workload, journal, load_config(config_file, settled), samples, concurrency)
    todo = [run.plan(tier, wanted, steps) for tier in chosen]
    run.fetch(todo)
    try:
        asyncio.run(run.all(todo))
    except KeyboardInterrupt:
        write_line(f"\nstopped; {journal.path} has what was measured; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    silent = run.tell_failures(todo)
    typer.echo(f"profile: {journal.path}", err=True)
    if silent:
        write_line(f"error: no answer at all: {', '.join(silent)}")
    if silent or run.has_failed:
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def _naming(tier: Tier | None) -> Iterator[None]:
    """Whose model it is that is not there, or that is none. Raises: ConfigError."""
    try:
        yield
    except (ModelNotFound, ModelFileError) as error:
        if tier is None:
            raise
        where, allowed = f"tiers.{tier.name}.model", "a language model that runs here"
        raise ConfigError(where, tier.model, allowed, error.message) from None


@frozen
class _Todo:
    """What is left to do on a tier."""

    tier: Tier
    asks: Sequence[Ask]
    num_runs: int


class _Run:
    """One command: its tiers one after the other, then scores that a model gives."""

    def __init__(
        self,
        workload: Workload,
        journal: Journal,
        config: Config,
        samples: int | None,
        concurrency: int,
    ) -> None:
        self._workload, self._journal, self._config = workload, journal, config
        self._samples, self._concurrency = samples, concurrency
        self.has_failed = False

    def plan(self, tier: Tier, calls: Sequence[Call], has_steps: bool) -> _Todo:
        """What the journal lacks."""
        asks = missing(calls, tier, self._journal, self._samples)
        if not (has_steps and tier.is_local) or self._journal.step_times(tier) is not None:
            return _Todo(tier, asks, 0)
        # One that was cut off after its last run still has to be added up.
        return _Todo(tier, asks, max(1, len(RUNS) - len(self._journal.step_runs(tier))))

    def fetch(self, todo: Sequence[_Todo]) -> None:
        """Get the models that are not here yet, while Ctrl-C still ends that at once.

        Raises: ConfigError for a key that is not there, before anything is fetched.
        """
        workload, store = self._workload, ModelStore(self._config.hub)
        names = [each.tier.name for each in todo if each.asks or each.num_runs]
        if names or missing_scores(workload, self._journal):
            names += [task.judge.tier for task in workload.tasks.values() if task.judge is not None]
            names += [task.metric.model for task in workload.tasks.values() if task.metric.model]
        for asked in filter(None, map(workload.tiers.get, names)):
            if asked.url is not None:
                read_upstream_key(asked.upstream)
        for name in dict.fromkeys(names):
            tier = workload.tiers.get(name)
            if tier is None or tier.is_local:
                with _naming(tier):
                    ensure_model(store, name if tier is None else tier.model)

    async def all(self, todo: Sequence[_Todo]) -> None:
        """Every tier, then the scores."""
        num_answers = sum(len(each.asks) for each in todo)
        with profile_progress(num_answers, sum(each.num_runs for each in todo)) as view:
            for each in todo:
                if each.asks or each.num_runs:
                    try:
                        with _naming(each.tier):
                            await self._ask(each, view)
                    except HeadraceError as error:
                        # The other tiers are measured, and what came is scored, all the same.
                        self.has_failed = True
                        write_line(f"error: {error.message}")
        for judge, num_missing in missing_scores(self._workload, self._journal).items():
            with count_view(num_missing, "scores", TimeRemainingColumn()) as scored:
                scored.begin(f"{judge}: starting")
                async with self._open_judge(judge) as opened:
                    scorer = Scorer(opened.backend, self._workload.tiers.get(judge))
                    on_score = partial(scored.count, has_failed=False, what=f"by {judge}")
                    await score_answers(self._workload, self._journal, judge, scorer, on_score)

    def tell_failures(self, todo: Sequence[_Todo]) -> list[str]:
        """Say what failed first of each call on each tier; return those without any answer."""
        silent = []
        for each in todo:
            for call in {ask.call.name: ask.call for ask in each.asks}.values():
                asked = [ask.sample for ask in each.asks if ask.call is call]
                found = (self._journal.find(call, each.tier, sample) for sample in asked)
                errors = [answer.error for answer in found if answer and answer.error is not None]
                if not errors:
                    continue
                name = f"{call.name} on {each.tier.name}"
                counts = f"{len(errors)} of {len(asked)} requests failed"
                write_line(f"{name}: {counts}, the first with: {errors[0]}")
                known = (self._journal.find(call, each.tier, sample) for sample in call.samples)
                if all(answer is None or answer.error is not None for answer in known):
                    silent.append(name)
        return silent

    async def _ask(self, todo: _Todo, view: ProfileView) -> None:
        tier, journal = todo.tier, self._journal
        view.begin(tier.name, f"starting {tier.model}")
        async with self._open(tier) as opened:
            journal.add_facts(tier, opened.facts)
            if todo.asks:
                view.begin(tier.name, f"asking for {len(todo.asks)} answers")
            profiler = Profiler(tier, opened.backend, journal, view.answered, self._concurrency)
            await profiler.run(todo.asks)
            if todo.num_runs:
                view.begin(tier.name, f"timing steps, {todo.num_runs} runs")

                def keep(run: StepRun) -> None:
                    journal.add_step_run(tier, run)
                    view.timed(tier, run)

                times = await measure_steps(opened.backend, journal.step_runs(tier), keep)
                journal.add_step_times(tier, times)

    def _open(self, tier: Tier) -> AbstractAsyncContextManager[OpenTier]:
        """Raises: ConfigError."""
        if tier.url is None:
            return open_local_tier(tier.model, self._config)
        return open_remote_tier(tier.upstream)

    def _open_judge(self, name: str) -> AbstractAsyncContextManager[OpenTier]:
        if name in self._workload.tiers:
            return self._open(self._workload.tiers[name])
        return open_scoring_encoder(name, self._config)
