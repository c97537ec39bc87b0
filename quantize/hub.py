"""Download a checkpoint from the Hugging Face hub: safetensors and small files, no pickles."""

from pathlib import Path

from runtime.errors import InputError, UnsupportedError

PATTERNS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.md",
    "tokenizer.model",
]


CHECKPOINT = "give a checkpoint folder, a GGUF file or a hub id like Qwen/Qwen2.5-0.5B"
ADAPTER = "give --adapter a folder that peft's save_pretrained wrote, or the hub id of one"


def download(source: str, way_out: str = CHECKPOINT) -> Path:
    """The folder of a repository such as "Qwen/Qwen2.5-0.5B"; offline, the one in the cache.

    Raises EdgequantError for a name that is none, with `way_out`, without the extra `hub`, and when
    it fails.
    """
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        raise InputError(f"{source} does not exist; {way_out}.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise UnsupportedError(
            f"{source} is not a folder, and hub downloads need: pip install 'edgequant[hub]'."
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise InputError(
            f"{source} could not be downloaded and is not cached ({reason}); "
            "check the name and the connection, or give a local folder."
        ) from error
