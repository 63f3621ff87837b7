"""From weights that are being packed to everything a running engine is made of.

In: a StartedModel. Out: LoadedModel with its text at both ends. Knows nothing of how weights are
packed; what is loaded here costs time only where packing is done before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.core.frozen import frozen
from headrace.engine.engine import make_drafter
from headrace.engine.model_text import load_text
from headrace.engine.started_model import Progress, StartedModel, ignore_progress
from headrace.executor.adapter_table import AdapterTable
from headrace.executor.drafting_runner import Drafter
from headrace.executor.load import ModelTensors, linear_shape
from headrace.executor.memory import Capacity
from headrace.executor.model_runner import ModelRunner
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.ops.protocol import Ops
from headrace.sampling.logits_rule import LogitsRules
from headrace.text.chat_template import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.weights.weight_reader import WeightReader

if TYPE_CHECKING:
    from headrace.engine.ranks import Ranks


@frozen
class WorkPerToken:
    """What a step moves and computes. Units: bytes, multiply-adds.

    `stream_bytes` are read once per decode step, in the file's format; `body_weights` are used for
    every token, `head_weights` for rows whose logits are wanted.
    """

    stream_bytes: int
    body_weights: int
    head_weights: int


@frozen
class LoadedModel:
    """A model ready to run."""

    config: ModelConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    runner: ModelRunner
    capacity: Capacity
    ops: Ops
    reader: WeightReader
    rules: LogitsRules
    adapters: AdapterTable | None
    drafter: Drafter | None = None
    draft_reader: WeightReader | None = None
    ranks: Ranks | None = None

    def work_per_token(self) -> WorkPerToken:
        """What a step moves and computes, from the file's index; the file must be open."""
        return work_per_token(type(self.runner.model), self.config, self.reader)


def finish_model(
    started: StartedModel,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    is_brief: bool = False,
    template_file: str | None = None,
) -> LoadedModel:
    """Load the text side and wait for the weights. `cache_dir` keeps built tokenizers.

    `is_brief` is for a few short prompts: the tokenizer loads no more than they need, and the
    first step waits for the weights, unless the model has a canary that is asked before.
    Raises: ModelFileError, UnsupportedFormat; QualityDrift where that is to be refused.
    """
    tokenizer, template = load_text(started.reader, cache_dir, is_brief, template_file)
    if not is_brief or started.has_canary or started.ranks is not None:
        started.finish_packing()
    if started.ranks is not None:
        started.ranks.watch()
    rules = LogitsRules(lambda: tokenizer, started.config.vocab_size)
    adapters = None
    if started.ranks is None:
        adapters = AdapterTable(
            started.model, started.ops, started.reader.architecture, started.capacity.adapter_bytes
        )
    drafter = make_drafter(started)
    (progress or ignore_progress)("loading", 1.0)
    return LoadedModel(
        config=started.config,
        tokenizer=tokenizer,
        chat_template=template,
        runner=ModelRunner(
            started.model,
            started.cache,
            started.ops,
            started.is_eager,
            rules,
            adapters,
            drafter.model if drafter else None,
        ),
        capacity=started.capacity,
        ops=started.ops,
        reader=started.reader,
        rules=rules,
        drafter=drafter,
        draft_reader=started.draft.reader if started.draft else None,
        adapters=adapters,
        ranks=started.ranks,
    )


def work_per_token(model: type[Llama], config: ModelConfig, reader: WeightReader) -> WorkPerToken:
    """Bytes and multiply-adds of a decode step, from the file's index."""
    tensors = ModelTensors.open(reader, config)
    stream_bytes = body_weights = 0
    for layer in range(config.num_layers):
        for linear in model.layer_spec(config).linears:
            for name in linear.parts:
                stream_bytes += tensors.get(f"layers.{layer}.{name}").nbytes
                rows, columns = linear_shape(config, name)
                body_weights += rows * columns
        for share, name in expert_parts(config, tensors):
            part = tensors.get(f"layers.{layer}.{name}")
            stream_bytes += int(share * part.nbytes)
            body_weights += int(share * part.shape[0] * part.shape[1])
    head = tensors.get("head" if tensors.has("head") else "embed")
    return WorkPerToken(
        stream_bytes + head.nbytes, body_weights, config.vocab_size * config.hidden_size
    )


def expert_parts(config: ModelConfig, tensors: ModelTensors) -> list[tuple[float, str]]:
    """A mixture's matrices and the share of tokens that read them; without one none."""
    mixture = config.mixture
    if mixture is None:
        return []
    routing = mixture.routing
    share = routing.num_chosen / routing.num_experts
    parts = [
        (share, f"experts.{expert}.{name}")
        for expert in range(routing.num_experts)
        for name in ("gate", "up", "down")
    ]
    shared = ("shared_gate", "shared_up", "shared_down")
    has_shared = mixture.shared_intermediate_size > 0
    return parts + ([(1.0, name) for name in shared] if has_shared else [])
