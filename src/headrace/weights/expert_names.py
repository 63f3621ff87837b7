"""Which tensor of a file is which of a mixture of experts.

In: architecture, kind of file, its metadata. Out: our name within a layer -> TensorSource. Our
names: `router` [E, C], `experts.{e}.` with gate, up and down, and of a shared expert shared_gate,
shared_up, shared_down, `shared_router` [1, C]. GGUF stacks all experts of a layer in one tensor.
Source: llama.cpp, convert_hf_to_gguf.py; transformers, conversion_mapping.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.weights.tensor_source import Kind, TensorSource, read_size

_STACKS = {
    "gate": "ffn_gate_exps.weight",
    "up": "ffn_up_exps.weight",
    "down": "ffn_down_exps.weight",
}
_GGUF_SHARED = {
    "shared_gate": "ffn_gate_shexp.weight",
    "shared_up": "ffn_up_shexp.weight",
    "shared_down": "ffn_down_shexp.weight",
    "shared_router": "ffn_gate_inp_shexp.weight",
}
_MIXTRAL = {"gate": "w1.weight", "up": "w3.weight", "down": "w2.weight"}
_QWEN = {"gate": "gate_proj.weight", "up": "up_proj.weight", "down": "down_proj.weight"}
_QWEN_SHARED = {
    "shared_gate": "mlp.shared_expert.gate_proj.weight",
    "shared_up": "mlp.shared_expert.up_proj.weight",
    "shared_down": "mlp.shared_expert.down_proj.weight",
    "shared_router": "mlp.shared_expert_gate.weight",
}


def expert_sources(
    architecture: str, kind: Kind, config: Mapping[str, object], has_shared: bool
) -> Iterator[tuple[str, TensorSource]]:
    """The sources of any layer, named without their layer. Raises: ModelFileError."""
    if kind == "gguf":
        count = read_size(config, f"{config.get('general.architecture')}.expert_count")
        yield "router", TensorSource("ffn_gate_inp.weight")
        for expert in range(count):
            for name, stack in _STACKS.items():
                yield f"experts.{expert}.{name}", TensorSource(stack, matrix=expert)
    else:
        is_mixtral = architecture == "mixtral"
        has_new_key = "num_local_experts" in config
        count = read_size(config, "num_local_experts" if has_new_key else "num_experts")
        block = "block_sparse_moe" if is_mixtral else "mlp"
        yield "router", TensorSource(f"{block}.gate.weight")
        for expert in range(count):
            for name, part in (_MIXTRAL if is_mixtral else _QWEN).items():
                place = f"{block}.experts.{expert}.{part}"
                yield f"experts.{expert}.{name}", TensorSource(place)
    if has_shared:
        for name, place in (_GGUF_SHARED if kind == "gguf" else _QWEN_SHARED).items():
            # GGUF keeps the one row of the shared router as a vector.
            is_row = name == "shared_router"
            yield name, TensorSource(place, transform="as_row" if is_row else None)
