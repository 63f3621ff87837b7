"""`headrace profile`: every task of a workload on every tier, for real, and how well it did."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated

import typer
from rich.progress import TimeRemainingColumn

from headrace.cli.generation import MemoryOption, ThreadsOption
from headrace.cli.plan_files import ProfileOption, WorkloadArgument, choose, open_journal
from headrace.cli.plan_progress import AnswerView, answer_progress
from headrace.cli.progress_views import count_view
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import Config
from headrace.core.upstreams import UpstreamConfig
from headrace.launch.tier_backends import (
    OpenTier,
    open_local_tier,
    open_remote_tier,
    open_scoring_encoder,
)
from headrace.planner.journal import Journal
from headrace.planner.judge import Scorer
from headrace.planner.profiler import Profiler, missing
from headrace.planner.scoring import missing_scores, score_answers
from headrace.planner.step_times import measure_steps
from headrace.planner.workload import FORM_FIELD, Call, Tier, Workload
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
    journal = open_journal(workload_file, profile_file)
    settled = {"engine.memory_bytes": memory, "engine.num_threads": threads}
    run = _Run(workload, journal, load_config(config_file, settled), samples, concurrency)
    asyncio.run(run.all(chosen, wanted, steps))
    typer.echo(f"profile: {journal.path}", err=True)


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

    async def all(self, tiers: Sequence[Tier], calls: Sequence[Call], has_steps: bool) -> None:
        total = sum(len(missing(calls, tier, self._journal, self._samples)) for tier in tiers)
        with answer_progress(total) as view:
            for tier in tiers:
                await self._ask(tier, calls, has_steps, view)
        for judge, num_missing in missing_scores(self._workload, self._journal).items():
            with count_view(num_missing, "scores", TimeRemainingColumn()) as scored:
                async with self._open_judge(judge) as opened:
                    scorer = Scorer(opened.backend, self._workload.tiers.get(judge))
                    on_score = partial(scored.count, has_failed=False, what=f"by {judge}")
                    await score_answers(self._workload, self._journal, judge, scorer, on_score)

    async def _ask(
        self, tier: Tier, calls: Sequence[Call], has_steps: bool, view: AnswerView
    ) -> None:
        asks = missing(calls, tier, self._journal, self._samples)
        needs_steps = has_steps and tier.is_local and self._journal.step_times(tier) is None
        if not asks and not needs_steps:
            return
        async with self._open(tier) as opened:
            self._journal.add_facts(tier, opened.facts)
            profiler = Profiler(tier, opened.backend, self._journal, view.show, self._concurrency)
            await profiler.run(asks)
            if needs_steps and opened.can_step:
                times = await measure_steps(opened.backend)
                self._journal.add_step_times(tier, times)

    def _open(self, tier: Tier) -> AbstractAsyncContextManager[OpenTier]:
        """Raises: ConfigError."""
        if tier.url is None:
            return open_local_tier(tier.model, self._config)
        return open_remote_tier(
            UpstreamConfig(
                name=tier.name,
                url=tier.url,
                models=(tier.model,),
                kind=tier.api_kind,
                api_key=tier.api_key,
                provider=tier.provider,
                refuses=tuple(name for name in tier.refuses if name != FORM_FIELD),
            )
        )

    def _open_judge(self, name: str) -> AbstractAsyncContextManager[OpenTier]:
        if name in self._workload.tiers:
            return self._open(self._workload.tiers[name])
        return open_scoring_encoder(name, self._config)
