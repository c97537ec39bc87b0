"""A LoRA adapter as PEFT saves it: a folder with settings and factors, checked.

runtime/merging.py puts it into its base.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.checkpoint_names import FLOATS
from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError
from runtime.json_files import AdapterConfig, read_json
from runtime.links import check_links
from runtime.safetensors_file import read
from runtime.stored import StoredArray

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is."""
COMPUTES_OTHERWISE = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
)
"""Settings of variants that are not W + scale B A."""
WITHOUT_EFFECT = (
    "auto_mapping", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_bias", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "parent_library", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type", "velora_config",
)  # fmt: skip
"""Settings of training, and those that the names of the tensors say again.

`fan_in_fan_out` is for GPT-2's layers; PEFT turns it off for those of the families here.
"""
KNOWN = {*WITHOUT_EFFECT, *COMPUTES_OTHERWISE, *AdapterConfig.__struct_fields__}
"""Every setting that is known here."""
A, B, B_BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
MAGNITUDE, ROWS = "lora_magnitude_vector", "token_adapter.trainable_tokens_delta"
PARTS = (A, B, B_BIAS, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, ROWS)
"""What follows a module's name in the name of a tensor that changes its weight."""
COPIES = re.compile(r"\.(?:base_layer|modules_to_save)\.(weight|bias)$")
"""What may follow it in the name of a tensor that takes the place of the module's own."""


@dataclass(frozen=True)
class Adapter:
    """A checked folder of PEFT."""

    folder: Path
    name: str
    config: dict[str, Any]
    modules: dict[str, dict[str, StoredArray]]
    """Module, such as "model.layers.0.mlp.up_proj" -> part (see PARTS) -> array."""
    copies: dict[str, StoredArray]
    """Whole arrays that take the place of the base's, by name."""

    @property
    def base(self) -> str:
        """The base as the adapter names it, a folder by its last name; "" where it does not."""
        named = str(self.config.get("base_model_name_or_path") or "").rstrip("/\\")
        is_hub_id = named.count("/") == 1 and not named.startswith((".", "/", "~"))
        return named if is_hub_id else re.split(r"[/\\]", named)[-1]

    @property
    def ranks(self) -> list[int]:
        """Every rank of its factors, once."""
        parts = [part for module in self.modules.values() for part in module.items()]
        return sorted({array.shape[0] for name, array in parts if name in (A, EMBEDDING_A)})

    @property
    def facts(self) -> dict[str, Any]:
        """What artifacts say of it."""
        return {"name": self.name, "base": self.base, "ranks": self.ranks, "sha256": self.sha256}

    @cached_property
    def sha256(self) -> str:
        """Over its settings and weights."""
        digest = hashlib.sha256((self.folder / CONFIG).read_bytes())
        with (self.folder / WEIGHTS).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def notes(self, base: str) -> list[str]:
        """What was merged into the model `base`, and what of its settings was not read."""
        ranks = ", ".join(map(str, self.ranks))
        what = f"LoRA of rank {ranks}" if ranks else "whole tensors"
        told = [
            f"the adapter {self.name} ({what}, sha256 {self.sha256[:12]}) was merged into {base} "
            "in float32"
        ]
        if self.base and self.base.rpartition("/")[2].lower() != base.lower():
            told.append(
                f"{self.name} names {self.base} as its base; whether {base} is the same cannot be "
                "verified"
            )
        if unknown := sorted(set(self.config).difference(KNOWN)):
            told.append(f"{CONFIG} of {self.name} has {', '.join(unknown)}, which is not read")
        return told


def read_adapter(folder: Path, name: str) -> Adapter:
    """Open an adapter's folder. Raises EdgequantError for one that cannot be merged."""
    check_links(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"{folder} has no {CONFIG}; give --adapter a folder that peft's save_pretrained wrote."
        )
    config = read_json(folder / CONFIG)
    _check_kind(folder, config)
    if not (folder / WEIGHTS).exists():
        raise _no_weights(folder)
    modules: dict[str, dict[str, StoredArray]] = {}
    copies: dict[str, StoredArray] = {}
    for full, array in read(folder / WEIGHTS).items():
        if array.dtype not in FLOATS:
            raise UnsupportedError(
                f"{folder / WEIGHTS} has {full} as {array.dtype}, not F32, F16 or BF16; save the "
                "adapter in full precision."
            )
        module, part = split_name(full)
        if part:
            modules.setdefault(module, {})[part] = array
        else:
            copies[module] = array
    if not modules and not copies:
        raise CorruptFileError(f"{folder / WEIGHTS} holds no tensor; save the adapter again.")
    return Adapter(folder, name, config, modules, copies)


def split_name(full: str) -> tuple[str, str]:
    """Module and part of a tensor's name; of a whole array the base's name and ""."""
    name = full.removeprefix("base_model.model.")
    if name.endswith(f"{MAGNITUDE}.weight"):  # some trainers keep what save_pretrained takes off
        name = name.removesuffix(".weight")
    for part in PARTS:
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    return COPIES.sub(r".\1", name), ""


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    """Raise UnsupportedError for another method than LoRA, or a variant that is not W + BA."""
    way_out = "merge it with peft's merge_and_unload where it can, and give the merged model."
    if (kind := config.get("peft_type")) != "LORA":
        raise UnsupportedError(
            f"{folder} is an adapter of the kind {kind}, and only LORA is merged here; {way_out}"
        )
    for key in COMPUTES_OTHERWISE:
        if config.get(key):
            raise UnsupportedError(
                f"{folder / CONFIG} sets {key}, which is not W + scale B A; {way_out}"
            )
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        raise UnsupportedError(
            f"{folder / CONFIG} has init_lora_weights {start!r}, which changed the base as well; "
            "save it with peft's path_initial_model_for_weight_conversion, or merge it with "
            "merge_and_unload and give the merged model."
        )


def _no_weights(folder: Path) -> EdgequantError:
    if (folder / PICKLE).exists():
        return UnsupportedError(
            f"{folder} holds a pickled adapter ({PICKLE}), which can run code when opened; load it "
            "with peft and save it again with save_pretrained, which writes safetensors."
        )
    return CorruptFileError(f"{folder} holds no {WEIGHTS}; download it, or save it again.")


def refuse_adapter(folder: Path) -> None:
    """Raise UnsupportedError for a source that is a LoRA, alone or beside the model it changes."""
    if not (folder / CONFIG).exists():
        return
    if (folder / "config.json").exists():
        raise UnsupportedError(
            f"{folder} holds an adapter beside its model ({CONFIG}), which transformers would "
            f"apply; merge it with --adapter {folder}, or move it elsewhere to leave it out."
        )
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    raise UnsupportedError(
        f"{folder} is a LoRA adapter{f' of {base}' if base else ''}, not a model; give its base as "
        f"the model, and merge the adapter into it with --adapter {folder}."
    )
