"""`headrace quantize`: write a smaller version of a model as a GGUF file."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headrace.cli.output_file import check_output_file
from headrace.cli.progress import LINE_EVERY_PERCENT, ensure_model
from headrace.cli.settings import ConfigOption, load_config
from headrace.config.machine import detect_machine
from headrace.convert.calibration import calibrate
from headrace.convert.canary_keys import (
    canary_keys,
    canary_tokens,
    measured_keys,
    why_no_canary,
)
from headrace.convert.feedback_pass import round_by_text
from headrace.convert.folder_source import FolderSource
from headrace.convert.format_plan import (
    FLOAT_TARGETS,
    TARGETS,
    SourceTensor,
    check_target,
    plan_formats,
)
from headrace.convert.gguf_source import GgufSource
from headrace.convert.mixed_plan import check_budget, plan_mixed
from headrace.convert.quantize_file import (
    Measure,
    Method,
    Rounding,
    Source,
    Written,
    quantize_file,
)
from headrace.core.errors import HeadraceError, InvalidParameter
from headrace.core.units import format_bytes
from headrace.core.version import headrace_version
from headrace.engine.model_text import load_tokenizer
from headrace.hub.digests import model_digest
from headrace.hub.model_store import ModelStore
from headrace.launch.model_builds import MEMORY_NAME
from headrace.ops.table import make_ops
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.scale_search import Floats
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_writer import KeyValue
from headrace.weights.names import sources
from headrace.weights.weight_reader import WeightReader, open_weights

LEAST_SOURCE_BITS = 8.0
"""Weights of fewer bits are rounded a second time only when asked."""


class MethodName(StrEnum):
    """How scales are chosen."""

    NEAREST = "nearest"
    SEARCH = "search"
    GPTQ = "gptq"


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name, or the path of a GGUF file or a folder of safetensors."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The GGUF file to write.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FORMAT", help=f"One of {', '.join(TARGETS)}.", show_default=False
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="With --to: what the embedding table and the head take instead. As small as the "
            "rest for a draft model, of which a wrong guess costs time alone.",
            show_default="at least q6_k",
        ),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Instead of --to: bits per weight in all. Each tensor gets 4 to 8, more where "
            "rounding hurts most.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        MethodName | None,
        typer.Option(
            help="`search` looks for the scales with the least error, `nearest` takes each "
            "group's range and is faster, `gptq` lets later columns make up for the errors of "
            "earlier ones and needs --calibration.",
            show_default="gptq with --calibration, search without",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text such as the model will see, in all its languages. It is run first, and "
            "weights are rounded by what they multiply then.",
            show_default=False,
        ),
    ] = None,
    is_requantizing: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", help="Also round weights that have fewer than 8 bits already."
        ),
    ] = False,
    has_canary: Annotated[
        bool,
        typer.Option(
            "--canary/--no-canary",
            help="Store what the new model says of a short text, so that a start can tell whether "
            "it still does. Needs memory for it.",
        ),
    ] = True,
    is_overwriting: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite an existing file.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Write a smaller version of a model as a GGUF file, which other engines read too.

    A folder of safetensors brings its tokenizer and chat template along; `--to` f16, bf16 or f32
    only converts it. Norms, biases and routers stay as they are; with `--to` the embedding table
    and the head take at least q6_k (or `--head`); where rows do not fill the blocks of a format,
    the next finer one is used. A tensor that is as small as its target stays as it is.
    """
    if (to is None) == (bits is None):
        raise InvalidParameter("--to", to, "a format, or --bits instead; one of the two")
    if to is not None:
        to = to.lower()
        check_target(to, "--to")
    head = _check_head(head, to)
    # Before a model is fetched too.
    _check_output(output, Path(model), is_overwriting)
    config = load_config(config_file).hub
    path = ensure_model(ModelStore(config), model).path
    _check_output(output, path, is_overwriting)
    if calibration is None and method is MethodName.GPTQ:
        raise InvalidParameter("--method", method.value, "with --calibration FILE, a text to run")
    if method is None:
        method = MethodName.SEARCH if calibration is None else MethodName.GPTQ
    if to in FLOAT_TARGETS:
        method = MethodName.NEAREST
    text = _read_text(calibration, method)
    started = time.monotonic()
    reader = open_weights(path)
    try:
        source = open_source(reader)
        formats = None if to is None else plan_formats(source.tensors, to, head)
        if not is_requantizing:
            _refuse_few_bits(source.tensors, formats, model)
        if bits is not None:
            check_budget(source.tensors, bits)
        facts: dict[str, KeyValue] = {
            "version": headrace_version(),
            "source": path.name,
            "source_sha256": model_digest(path, config.home / MEMORY_NAME, lambda: None),
        }
        importance: dict[str, Floats] = {}
        token_ids: Sequence[int] = ()
        if text is not None:
            token_ids = load_tokenizer(reader, None).encode(text)
            importance = _calibrate(reader, source, token_ids)
            facts["calibration_sha256"] = hashlib.sha256(text.encode()).hexdigest()
            facts["calibration_tokens"] = len(token_ids)
        if formats is None:
            formats = plan_mixed(source, bits or 0.0, importance)
        tokens = _canary_tokens(reader, source, formats) if has_canary else []
        canary = canary_keys(tokens) if tokens else {}
        rounded: dict[str, QuantTensor] = {}
        if method is MethodName.GPTQ:
            rounded = _round_by_text(reader, source, formats, token_ids)
        rounding = Rounding(formats, _METHODS[method], importance, rounded, facts, canary)
        written = _run(source, rounding, output, _measure(tokens) if tokens else None)
    finally:
        reader.close()
    _report(written, path, time.monotonic() - started)


_METHODS: dict[MethodName, Method] = {
    MethodName.NEAREST: "nearest",
    MethodName.SEARCH: "search",
    MethodName.GPTQ: "gptq",
}


def _check_head(head: str | None, to: str | None) -> str | None:
    if head is None:
        return None
    head = head.lower()
    check_target(head, "--head")
    if to is None or to in FLOAT_TARGETS:
        raise InvalidParameter("--head", head, "beside --to with a format of few bits")
    return head


def _check_output(output: Path, source: Path, is_overwriting: bool) -> None:
    if output.exists() and source.exists() and output.samefile(source):
        raise InvalidParameter("--output", str(output), "another file than the model itself")
    if output.is_dir() or output.suffix != ".gguf":
        raise InvalidParameter("--output", str(output), "the path of a .gguf file")
    if output.exists() and not is_overwriting:
        raise InvalidParameter("--output", str(output), "a file that is not there", "Or --force.")
    check_output_file("--output", output)


def open_source(reader: WeightReader) -> GgufSource | FolderSource:
    """What is quantized, and on stderr what GGUF cannot say of it. Raises: ModelFileError."""
    if isinstance(reader, GgufReader):
        return GgufSource(reader)
    source = FolderSource(reader)
    for note in source.notes:
        typer.echo(f"note: {note}", err=True)
    return source


def _refuse_few_bits(
    tensors: Sequence[SourceTensor], formats: Mapping[str, str] | None, model: str
) -> None:
    """Tensors of few bits that would be rounded; without a plan any may be."""
    few = [
        t
        for t in tensors
        if t.format.bits_per_weight < LEAST_SOURCE_BITS
        and (formats is None or formats[t.name] != t.format.name)
    ]
    if few:
        raise HeadraceError(
            f"{model} is quantized already: {len(few)} tensors have fewer than 8 bits "
            f"({few[0].name} is {few[0].format.name}), and rounding them again loses more than "
            "rounding once. Start from the unquantized model, or give --allow-requantize."
        )


def _read_text(path: Path | None, method: MethodName) -> str | None:
    if path is None:
        return None
    if method is MethodName.NEAREST:
        raise InvalidParameter(
            "--calibration", str(path), "nothing with --method nearest or a target of floats"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter("--calibration", str(path), "a text file in UTF-8") from error


def _calibrate(reader: WeightReader, source: Source, token_ids: Sequence[int]) -> dict[str, Floats]:
    """Importance by GGUF name."""
    typer.echo(f"calibrating on {len(token_ids)} tokens", err=True)
    ops = make_ops("cpu", num_threads=detect_machine().num_cores)
    found = calibrate(reader, token_ids, ops)
    metadata = reader.metadata if reader.kind == "gguf" else source.keys()
    return found.of_files(sources(reader.architecture, "gguf", found.num_layers, metadata))


def _round_by_text(
    reader: WeightReader, source: Source, formats: Mapping[str, str], token_ids: Sequence[int]
) -> dict[str, QuantTensor]:
    num_threads = detect_machine().num_cores
    ops = make_ops("cpu", num_threads=num_threads)
    with _progress("rounding") as show:
        return round_by_text(reader, source, formats, token_ids, ops, num_threads, show)


def _canary_tokens(
    reader: WeightReader, source: Source, formats: Mapping[str, str]
) -> Sequence[int]:
    """The text that the new model is asked; none, and a line on stderr, where it cannot be."""
    planned = sum(
        math.prod(tensor.shape) * FORMATS[formats[tensor.name]].bits_per_weight / 8
        for tensor in source.tensors
    )
    reason = why_no_canary(reader, int(planned), detect_machine().memory_available_bytes)
    if reason is not None:
        typer.echo(f"note: no canary is stored: {reason}", err=True)
        return []
    return canary_tokens(load_tokenizer(reader, None))


def _measure(token_ids: Sequence[int]) -> Measure:
    ops = make_ops("cpu", num_threads=detect_machine().num_cores)
    return lambda path: measured_keys(path, token_ids, ops)


def _run(
    source: Source, rounding: Rounding, output: Path, measure: Measure | None = None
) -> Written:
    with _progress("quantizing") as show:
        return quantize_file(source, rounding, output, detect_machine().num_cores, show, measure)


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows done, total and what is next: a bar on a terminal, a line for every tenth elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(doing)

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=escape(name))

        yield show


class _Lines:
    """A line at every tenth."""

    def __init__(self) -> None:
        self._percent = 0

    def show(self, done: int, total: int, name: str) -> None:
        percent = 100 * done // total
        if percent >= self._percent + LINE_EVERY_PERCENT:
            self._percent = percent
            typer.echo(f"  {percent} % ({name})", err=True)


def _report(written: Written, source: Path, elapsed_s: float) -> None:
    for name, num_weights in sorted(written.num_weights.items(), key=lambda item: -item[1]):
        share = num_weights / sum(written.num_weights.values())
        typer.echo(
            f"{name:7} {share:6.1%} of the weights, {format_bytes(written.num_bytes[name])}",
            err=True,
        )
    size, before = written.path.stat().st_size, _size_of(source)
    typer.echo(
        f"{written.path}: {format_bytes(size)}, {written.bits_per_weight:.2f} bits per weight "
        f"({size / before:.0%} of {source.name}), in {elapsed_s:.0f} s"
    )


def _size_of(source: Path) -> int:
    if source.is_dir():
        return sum(file.stat().st_size for file in source.glob("*.safetensors"))
    return source.stat().st_size
