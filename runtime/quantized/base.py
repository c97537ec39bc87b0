"""Which tool quantized a checkpoint, and its arrays under the names of the weights they hold.

    quantization_config -> METHODS -> arrays, X.qweight, X.scales, ... of a linear X now X.weight

A method puts a `ComputedArray` in the place of what it stores, so that all that is read of a
checkpoint (experts, adapters, a head of its own) reads a quantized one alike.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_files import checked, read_json
from runtime.stored import StoredArray

T = TypeVar("T", bound=msgspec.Struct)

Arrays = dict[str, StoredArray]
Settings = dict[str, Any]
"""quantization_config of config.json, or what stands in its place."""

KEY = "quantization_config"
FLOATS = ("F32", "F16", "BF16", "F64")
"""Types of weights that nobody quantized."""
ACTIVATIONS = (
    *("input_scale", "input_zero_point", "input_global_scale", "activation_scale"),
    *("output_scale", "output_zero_point", "q_scale", "k_scale", "v_scale", "prob_scale"),
    *("q_zero_point", "k_zero_point", "v_zero_point"),
)
"""Last names of arrays that say how activations or keys and values are rounded while running."""
PARTS = (
    *("qweight", "qzeros", "scales", "g_idx", "weight_scale_inv", "weight_scale", "weight_packed"),
    *("weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale"),
    *("SCB", "absmax", "quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4"),
)
"""Last names of arrays that weights are quantized with, in any of these formats."""
MAKING = (
    "act_bits",
    "act_data_type",
    "act_dynamic",
    "act_group_aware",
    "act_group_size",
    "act_sym",
    "amp",
    "autoround_version",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "cache_examples_on_gpu",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "disable_exllama",
    "enable_minmax_tuning",
    "enable_norm_bias_tuning",
    "enable_quanted_input",
    "exllama_config",
    "gradient_accumulate_steps",
    "iters",
    "lm_head",
    "low_gpu_mem_usage",
    "lr",
    "max_input_length",
    "method",
    "minmax_lr",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_not_convert",
    "mse",
    "nsamples",
    "pad_token_id",
    "provider",
    "quant_block_list",
    "scale_dtype",
    "seqlen",
    "static_attention_dtype",
    "static_groups",
    "static_kv_dtype",
    "to_quant_block_names",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
)
"""Settings of GPTQ, AWQ and auto-round, which writes both formats, that say how weights came
to be, or how to run them; which of them are quantized is told by their arrays."""
BESIDE = "quantize_config.json"
"""Where auto-gptq says it when config.json does not."""


class Readable(NamedTuple):
    """A quantized checkpoint, as it is read."""

    arrays: Arrays
    """By the names of a checkpoint in floats."""
    notes: list[str]


Read = Callable[[Settings, Arrays], Readable]
METHODS: dict[str, Read] = {}
"""Reader of each `quant_method`; filled by the files of this package."""


def reads(*methods: str) -> Callable[[Read], Read]:
    """Register the reader of a `quant_method`."""

    def register(read: Read) -> Read:
        METHODS.update(dict.fromkeys(methods, read))
        return read

    return register


def settings_of(folder: Path, config: Settings) -> Settings | None:
    """How a checkpoint says that it was quantized, None where it says nothing."""
    if config.get(KEY) is not None:
        return dict(config[KEY])
    found = read_json(folder / BESIDE)
    return {"quant_method": "gptq", **found} if found else None


def is_read(settings: Settings) -> bool:
    """Whether there is a reader of the method."""
    return str(settings.get("quant_method")) in METHODS


def beside_notes(folder: Path, config: Settings) -> list[str]:
    """A note where quantize_config.json says otherwise than config.json, which counts."""
    counted, beside = config.get(KEY) or {}, read_json(folder / BESIDE)
    other = [key for key in beside if key in counted and counted[key] != beside[key]]
    if not other:
        return []
    return [f"config.json says how it was quantized; {BESIDE} has another {' and '.join(other)}"]


def read_quantized(settings: Settings, arrays: Arrays) -> Readable | None:
    """The arrays by their plain names, None where all are floats or no reader knows the method.

    Raises EdgequantError for settings that are not read, or arrays that are not as they say.
    """
    method = str(settings.get("quant_method"))
    if not is_read(settings) or all(array.dtype in FLOATS for array in arrays.values()):
        return None
    found = METHODS[method](settings, arrays)
    left, aside = without_activations(found.arrays)
    for name in left:
        if name.rpartition(".")[2] in PARTS:
            raise UnsupportedError(
                f"{name} does not belong to what {KEY} names, {method}; take the config.json that "
                "came with the weights."
            )
    return Readable(left, [*found.notes, *aside])


def parsed(settings: Settings, kind: type[T], harmless: Iterable[str]) -> T:
    """Settings as a described type.

    `harmless`: names of settings that say how the weights came to be, not what they are. Raises
    UnsupportedError for one that is neither known nor empty: it might change the weights.
    """
    known = {field.name for field in msgspec.structs.fields(kind)} | {*harmless, "quant_method"}
    for key, value in settings.items():
        if key not in known and value not in (None, False, "", [], {}):
            raise UnsupportedError(
                f"{KEY} has {key} = {value!r}, and what that does to the weights is not known "
                "here; take it out of config.json if they are the same without it, or give the "
                "full-precision checkpoint."
            )
    return checked(settings, kind, KEY)


def original(what: str) -> str:
    """The note of a source, `what` it is."""
    return f"the source is {what}: its values are the original that artifacts are compared with"


def modules(arrays: Arrays, part: str) -> list[str]:
    """Names of the modules that store an array `part`, in their order."""
    end = f".{part}"
    return [name.removesuffix(end) for name in arrays if name.endswith(end)]


def take(
    arrays: Arrays, module: str, needed: Iterable[str], others: Iterable[str] = ()
) -> dict[str, StoredArray]:
    """A module's arrays by their last names, taken out of `arrays`.

    Raises CorruptFileError for one that is needed and missing.
    """
    needed, found = tuple(needed), {}
    for part in dict.fromkeys((*needed, *others)):
        if f"{module}.{part}" in arrays:
            found[part] = arrays.pop(f"{module}.{part}")
        elif part in needed:
            raise CorruptFileError(
                f"{module}.{part} is missing, without which {module} cannot be read; download "
                "all files of the checkpoint again."
            )
    return found


def put(arrays: Arrays, name: str, array: StoredArray) -> None:
    """Give a weight its array. Raises CorruptFileError where it has one."""
    if name in arrays:
        raise CorruptFileError(
            f"{name} is stored in floats and quantized; save the checkpoint with one of them."
        )
    arrays[name] = array


def check(name: str, array: StoredArray, shape: tuple[int, ...], dtypes: Iterable[str]) -> None:
    """Raise EdgequantError for an array that is not as the settings say."""
    dtypes = tuple(dtypes)
    if array.dtype not in dtypes:
        raise UnsupportedError(
            f"{name} is {array.dtype}, not {' or '.join(dtypes)} as {KEY} says; take the "
            "config.json that came with the weights."
        )
    if array.shape != shape:
        raise CorruptFileError(
            f"{name} has shape {array.shape}, {KEY} implies {shape}; take the config.json that "
            "came with the weights."
        )


def check_matrix(name: str, array: StoredArray, dtypes: Iterable[str]) -> tuple[int, int]:
    """Rows and columns of an array. Raises EdgequantError where it is no matrix of these types."""
    if len(array.shape) != 2 or 0 in array.shape:
        raise CorruptFileError(
            f"{name} has shape {array.shape} and is no matrix; download the checkpoint again."
        )
    rows, cols = array.shape
    check(name, array, (rows, cols), dtypes)
    return rows, cols


def scale_block(
    name: str,
    scale: StoredArray,
    shape: tuple[int, int],
    block: tuple[int, int] | None,
    dtypes: Iterable[str],
) -> tuple[int, int]:
    """Rows and columns of a weight (out, in) that one scale is for.

    Without `block` there is a single scale, or one for each row. Raises EdgequantError for scales
    of another shape or type.
    """
    rows, cols = shape
    if block is not None:
        check(name, scale, (-(-rows // block[0]), -(-cols // block[1])), dtypes)
        return block
    if scale.shape in ((), (1,), (1, 1)):
        check(name, scale, scale.shape, dtypes)
        return rows, cols
    check(name, scale, (rows, 1) if len(scale.shape) > 1 else (rows,), dtypes)
    return 1, cols


def without_activations(arrays: Arrays) -> tuple[Arrays, list[str]]:
    """The arrays without what activations and keys and values were rounded with, and a note."""
    left = {n: array for n, array in arrays.items() if n.rpartition(".")[2] not in ACTIVATIONS}
    if len(left) == len(arrays):
        return arrays, []
    first = next(name for name in arrays if name not in left)
    return left, [
        f"{len(arrays) - len(left)} scales of activations or of the KV cache, {first} the first, "
        "are left aside: here they stay in floats"
    ]
