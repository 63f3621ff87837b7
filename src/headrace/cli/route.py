"""`headrace route`: what comparisons of tiers show, and what can be learned from them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headrace.cli.output_file import check_output_file
from headrace.cli.plain_values import PlainCommand, PlainGroup
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.errors import ConfigError
from headrace.economics.prices import format_usd
from headrace.router.route_fit import fit_route_model, read_rows
from headrace.router.shadow_log import read_records
from headrace.router.shadow_summary import ShadowSummary, summarize

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE", help="Files or folders of records. Default: those of the settings."
    ),
]


def shadow(
    files: FilesArgument = None, is_json: JsonOption = False, config_file: ConfigOption = None
) -> None:
    """Add up comparisons of answers with another tier's, by task and tiers.

    `routing.shadow` in the settings of a server makes them.
    """
    found = summarize(read_records(_paths(files, config_file)))
    if is_json:
        typer.echo(json.dumps([asdict(summary) for summary in found], indent=2))
        return
    if not found:
        typer.echo("no comparisons in these records; `routing.shadow` makes them", err=True)
        return
    open_console().print(_shadow_table(found))


def fit(
    files: FilesArgument = None,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Where the model goes.")
    ] = "route-model.json",
    premium_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of calls that may go to the premium tier.")
    ] = 0.3,
    min_agreement: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", help="With less, the cheap answer would not have done; 0 to 1."
        ),
    ] = 0.5,
    cheap: Annotated[
        str | None, typer.Option(metavar="TIER", help="Take comparisons with this tier alone.")
    ] = None,
    is_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Learn which calls need the premium tier, from comparisons or from labelled requests.

    A record is a comparison of `routing.shadow`, or has `needs_premium` (true or false) and a
    `prompt`, `messages` or `features`. `routing.learned` uses the model. What is printed was
    predicted for records that the fit had not seen.
    """
    for name, value in (("--premium-share", premium_share), ("--min-agreement", min_agreement)):
        if not 0 <= value <= 1:
            raise ConfigError(name, value, "a number from 0 to 1")
    check_output_file("--out", Path(out))
    rows = read_rows(read_records(_paths(files, config_file)), min_agreement, cheap)
    model = fit_route_model(rows, premium_share)
    try:
        Path(out).write_text(model.to_json(), "utf-8")
    except OSError as error:
        hint = f"{error.strerror}."
        raise ConfigError("--out", out, "a file that can be written", hint) from None
    if is_json:
        typer.echo(json.dumps({"out": out, "threshold": model.threshold, **model.metrics}))
        return
    typer.echo("\n".join(_describe_fit(model.metrics, model.threshold, out)))


def pairs(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Labelled pairs as JSON lines. Default: those that come along.",
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(metavar="MODEL", help="The encoder.")
    ] = "all-minilm-l6-v2",
    max_false_hits: Annotated[
        float, typer.Option(metavar="SHARE", help="Of answers that would be given again.")
    ] = 0.01,
    is_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Choose the threshold of the semantic cache: measure how often it would be wrong.

    A pair has `one`, `other` and `same` (true where one answer does for both).
    """
    if not 0 <= max_false_hits < 1:
        raise ConfigError("--max-false-hits", max_false_hits, "a number from 0 to below 1")
    # Readers, numpy and kernels, which the other commands do without.
    measure = importlib.import_module("headrace.launch.pair_threshold").measure_pairs
    found: dict[str, Any] = measure(
        load_config(config_file), [Path(file) for file in files or ()], encoder, max_false_hits
    )
    typer.echo(json.dumps(found) if is_json else "\n".join(_describe_pairs(found)))


def _paths(files: Sequence[str] | None, config_file: Path | None) -> list[Path]:
    """What was named, else where a server with these settings writes. Raises: ConfigError."""
    if files:
        return [Path(file) for file in files]
    config = load_config(config_file)
    shadow = None if config.routing is None else config.routing.shadow
    folder = config.hub.home / "shadow" if shadow is None or not shadow.folder else shadow.folder
    if not Path(folder).is_dir():
        hint = "`routing.shadow` in the settings of a server fills this one; there is none yet."
        raise ConfigError("FILE", str(folder), "a folder or file of records", hint)
    return [Path(folder)]


def _shadow_table(found: Sequence[ShadowSummary]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    titles = (
        "TASK",
        "TIER",
        "OTHER",
        "METRIC",
        "COMPARED",
        "FAILED",
        "AGREEMENT",
        "95%",
        "ALL OF IT",
    )
    for title in (*titles, "LENGTH", "S", "OTHER S", "OTHER USD"):
        left = title in ("TASK", "TIER", "OTHER", "METRIC")
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for one in found:
        low_high = "-" if one.agreement_95 is None else "{:.2f}-{:.2f}".format(*one.agreement_95)
        table.add_row(
            one.task or "-",
            one.tier,
            one.other_tier,
            one.metric,
            str(one.num_compared),
            str(one.num_failed),
            _show(one.agreement, ".3f"),
            low_high,
            _show(one.full_agreement, ".2f"),
            _show(one.length_ratio, ".2f"),
            _show(one.mean_s, ".2f"),
            _show(one.other_mean_s, ".2f"),
            "-" if one.other_nano_usd is None else format_usd(one.other_nano_usd),
        )
    return table


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _describe_fit(metrics: Any, threshold: float, out: str) -> list[str]:
    low, high = metrics["auc_95"]
    lines = [
        f"{metrics['num_rows']} requests, {metrics['num_needing_premium']} need the premium tier",
        f"area under the curve {metrics['auc']:.3f} (95%: {low:.3f} to {high:.3f}; chance is 0.5)",
        f"threshold {threshold:.4f}: {metrics['premium_share']:.1%} go to the premium tier",
        "",
        f"{'':24}premium share  good enough",
        f"{'this model':24}{metrics['premium_share']:13.1%}  {metrics['good_enough']:11.1%}",
    ]
    random = metrics["good_enough_random_same_share"]
    lines += [
        f"{'chance, same share':24}{metrics['premium_share']:13.1%}  {random:11.1%}",
        f"{'always cheap':24}{0:13.1%}  {metrics['good_enough_always_cheap']:11.1%}",
        f"{'always premium':24}{1:13.1%}  {1:11.1%}",
        "",
        f"hard ones sent cheap: {metrics['hard_sent_cheap']:.1%} of all; "
        f"easy ones sent premium: {metrics['easy_sent_premium']:.1%}",
    ]
    wanted, num_rows = metrics["target_premium_share"], metrics["num_rows"]
    got = min(metrics["fitted_premium_share"], metrics["premium_share"])
    # Without ties less than one request is lacking.
    if round(got * num_rows) < math.floor(wanted * num_rows + 1e-9):
        lines.append(
            f"Of {wanted:.1%} that may go to the premium tier {got:.1%} do: the next ones have the "
            "same score, and go together. Take a larger --premium-share to send them too."
        )
    if low <= 0.5:
        lines.append("The interval has 0.5 in it: nothing shows that this is better than chance.")
    return [*lines, f"written to {out}"]


def _describe_pairs(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['num_pairs']} pairs, {found['num_same']} with one answer for both; "
        f"{found['encoder']}",
        "",
        "similarity  hits of same  false hits  of all hits",
    ]
    lines += [
        f"{row['min_similarity']:10.2f}  {row['hit_rate']:12.1%}  {row['num_false']:10d}  "
        f"{row['false_hit_rate']:11.1%}"
        for row in found["thresholds"]
    ]
    chosen = found["chosen"]
    if chosen is None:
        return [*lines, "", "No threshold has so few false hits."]
    lines += [
        "",
        f"min_similarity: {chosen['min_similarity']:.2f}  "
        f"({chosen['false_hit_rate']:.1%} of its hits were false, at most "
        f"{chosen['false_hit_rate_95']:.1%} with 95%; it finds {chosen['hit_rate']:.1%})",
    ]
    if not found["is_shown"]:
        needed, wanted = found["hits_needed"], f"at most {found['max_false_hits']:.1%} false hits"
        more = "no number of pairs shows none"
        if needed is not None:
            has = f"here are {chosen['num_hits']} hits"
            more = f"that takes {needed} hits without a false one, {has}"
        lines.append(f"Not shown: these pairs are too few for {wanted}; {more}.")
    return lines


def _group() -> None:
    """Tiers: what comparisons of their answers show, and what can be learned from them."""


route = typer.Typer(cls=PlainGroup, rich_markup_mode=None, add_completion=False)
route.callback()(_group)
for _name, _command in (("shadow", shadow), ("fit", fit), ("pairs", pairs)):
    route.command(_name, cls=PlainCommand)(_command)
