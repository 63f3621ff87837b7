"""Source: the Hugging Face hub. The only file that imports huggingface_hub.

In: repository, revision and file. Out: addresses, sizes and digests; the bytes come through
`hub.https`, which resumes. The token and the endpoint are those of huggingface_hub
(`hf auth login`, HF_TOKEN, HF_ENDPOINT).
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, and not in its __all__
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from headrace.core.config import HubConfig
from headrace.hub.https import HttpsSource, check_reachable
from headrace.hub.model_source import HttpsFile, HubFile, ModelFile, ReportBytes, SourceFailed
from headrace.hub.repository_listing import parse_listing

ANSWER_TIMEOUT_S = 15.0
MAX_SPLIT_PARTS = 999
_SPLIT = re.compile(r"(?P<prefix>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
# What a folder of safetensors is read with. Weights in other formats and code are left there.
_FOLDER_NAMES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "model.safetensors.index.json",
        # Where old releases of AutoGPTQ and AutoAWQ say how they packed.
        "quantize_config.json",
        "quant_config.json",
        # How sentence-transformers makes a vector.
        "modules.json",
        "sentence_bert_config.json",
        "sentence_camembert_config.json",
        "sentence_distilbert_config.json",
        "sentence_roberta_config.json",
        "sentence_xlm-roberta_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    }
)


class HuggingFaceSource:
    """Fetches one file of a repository."""

    def __init__(self, spec: HubFile, config: HubConfig, endpoint: str | None = None) -> None:
        self._spec = spec
        self._config = config
        self._url = hf_hub_url(spec.repo, spec.file, revision=spec.revision, endpoint=endpoint)

    @property
    def label(self) -> str:
        return f"huggingface {self._spec.repo}"

    def fetch(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        https = HttpsSource(HttpsFile(self._url), self._config, headers)
        https.fetch(file, partial, report)


def list_files(
    spec: HubFile, config: HubConfig, endpoint: str | None = None
) -> tuple[ModelFile, ...]:
    """Ask the hub which files a pull of this repository or file means, with sizes and digests.

    A repository without a file means its only GGUF file, or its safetensors with configuration and
    tokenizer. A part of a split GGUF file means all its parts, the first one first. The revision
    is pinned to the commit that answered.
    Raises: SourceFailed with what to type instead, where that can be known.
    """
    if spec.file and not spec.file.endswith(".gguf"):
        raise SourceFailed(f"{spec.file!r} is no GGUF file; for safetensors name {spec.repo} alone")
    listing = parse_listing(spec.repo, _ask(spec, config, endpoint or constants.ENDPOINT))
    there = sorted(listing.entries)
    names = _split_parts(spec.file) if spec.file else _choose(spec.repo, there)
    missing = [name for name in names if name not in listing.entries]
    if missing:
        near = [name for name in there if name.endswith(".gguf")]
        raise SourceFailed(f"{spec.repo} has no file {missing[0]!r}.{_offer(spec.repo, near)}")
    return tuple(listing.file(name, spec.revision) for name in names)


def _ask(spec: HubFile, config: HubConfig, endpoint: str) -> bytes:
    """The hub's answer as it came: HfApi.model_info ends in a KeyError on one that lacks a key."""
    check_reachable(endpoint, config.connect_timeout_s)
    try:
        validate_repo_id(spec.repo)
        response = get_session().get(
            f"{endpoint}/api/models/{spec.repo}/revision/{quote(spec.revision, safe='')}",
            params={"blobs": "true"},
            headers=build_hf_headers(),
            timeout=ANSWER_TIMEOUT_S,
        )
        hf_raise_for_status(response)
        return bytes(response.content)
    except GatedRepoError:
        reason = "accept its licence on its page, then set HF_TOKEN or run `hf auth login`"
        raise SourceFailed(f"{spec.repo} is gated: {reason}") from None
    except RevisionNotFoundError:
        raise SourceFailed(f"{spec.repo} has no revision {spec.revision!r}") from None
    except RepositoryNotFoundError:
        raise SourceFailed(
            f"{spec.repo} is not there, or is private and HF_TOKEN does not open it"
        ) from None
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise SourceFailed(_first_line(error)) from None
    except Exception as error:
        # The HTTP client under huggingface_hub differs by release, and so do its exceptions.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests"):
            raise SourceFailed(f"no answer: {_first_line(error)}") from None
        raise


def _choose(repo: str, names: list[str]) -> list[str]:
    safetensors = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if safetensors and "config.json" in names:
        return safetensors + [name for name in names if name in _FOLDER_NAMES]
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf and gguf == _split_parts(gguf[0]):
        return gguf
    if gguf:
        raise SourceFailed(f"{repo} has {len(gguf)} GGUF files; name one.{_offer(repo, gguf)}")
    raise SourceFailed(f"{repo} has neither safetensors with config.json nor a GGUF file")


def _split_parts(name: str) -> list[str]:
    """Name all parts of a split GGUF file; any other file is its own only part.

    Source: llama.cpp, `llama_split_path`: `<prefix>-00001-of-00003.gguf`.
    """
    match = _SPLIT.fullmatch(name)
    if match is None or int(match["count"]) > MAX_SPLIT_PARTS:
        return [name]
    numbers = range(1, int(match["count"]) + 1)
    return [f"{match['prefix']}-{number:05d}-of-{match['count']}.gguf" for number in numbers]


def _offer(repo: str, names: list[str]) -> str:
    shown = ", ".join(f"{repo}/{name}" for name in names[:8])
    return f" Files: {shown}{', ...' if len(names) > 8 else ''}" if names else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
