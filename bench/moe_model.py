"""A small model with experts, made of the bundled one: for what is measured of experts.

    python bench/moe_model.py OUTPUT [--steps 300] [--seed 0]

Each FFN of 768 channels becomes a shared expert of the 256 that are most active and eight experts
of 64 that are active together, of which a token takes two; a least-squares fit of their energies
makes the router. The whole is then healed by distillation from the original, in minutes on a core.
Its router is skewed as trained ones are: nothing balances it. Same arguments, same bytes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
from bench.derive import FILES, LENGTH, Weights, heal, read
from quantize.calibration.rows import Rows
from quantize.calibration.states import embed
from quantize.calibration.stream import Carried, OriginalLayers, forward
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.archs import family_of
from runtime.backends.torch import TorchOps
from runtime.forward import Observer

EXPERTS, TOP_K, INNER, SHARED = 8, 2, 64, 256
"""Experts, those of a token, and the channels of one and of the shared one."""
ROWS = 8
"""Windows whose activations say which channels belong together."""
RIDGE = 1e-3
"""Of the least squares, as a share of the mean square."""


class Seen(Observer):
    """What the FFN of a layer read, and what its down read."""

    def __init__(self) -> None:
        self.parts: dict[str, list[torch.Tensor]] = {"ffn_gate_up": [], "ffn_down": []}

    def read(self, group: str, x: torch.Tensor) -> None:
        if group in self.parts:
            self.parts[group].append(x.reshape(-1, x.shape[-1]).clone())

    def tokens(self, group: str) -> torch.Tensor:
        """(tokens, in)"""
        return torch.cat(self.parts[group])


def together(sizes: torch.Tensor, channels: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """Channels in equal parts that are large on the same tokens.

    sizes (tokens, all channels). Halves again and again, at the median along the direction in which
    the channels' patterns differ most.
    """
    if parts == 1:
        return [channels.sort().values]
    patterns = sizes[:, channels].T
    patterns = patterns / patterns.norm(dim=1, keepdim=True).clamp(min=1e-9)
    patterns = patterns - patterns.mean(0)
    along = torch.linalg.eigh(patterns @ patterns.T).eigenvectors[:, -1]
    order = channels[along.argsort()]
    half = len(order) // 2
    return [
        part for side in (order[:half], order[half:]) for part in together(sizes, side, parts // 2)
    ]


def router_of(x: torch.Tensor, energies: torch.Tensor) -> torch.Tensor:
    """(experts, D): least squares from what the FFN reads to the log of each expert's energy."""
    wanted = energies.clamp(min=1e-9).log()
    wanted = wanted - wanted.mean(1, keepdim=True)
    square = x.T @ x / len(x)
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    return torch.linalg.solve(square, x.T @ wanted / len(x)).T


@torch.inference_mode()
def split(checkpoint: Checkpoint) -> Weights:
    """The weights with experts, before any training."""
    arch, ops, weights = checkpoint.arch, TorchOps(), read(checkpoint)
    ids = calib_data.load("builtin", checkpoint.tokenizer, ROWS, LENGTH).ids
    hidden = np.zeros((*ids.shape, arch.hidden), np.float32)
    embed(checkpoint.arch, checkpoint.tensors["token_embd.weight"], Rows(ids), hidden)
    source = OriginalLayers(checkpoint, ops.device)
    for layer, seen in forward(ops, source, Carried(hidden), lambda layer: Seen()):
        blk, sizes = f"blk.{layer.index}", seen.tokens("ffn_down").abs()
        order = sizes.square().sum(0).argsort(descending=True)
        own, rest = order[:SHARED].sort().values, order[SHARED:].sort().values
        parts = together(sizes, rest, EXPERTS)
        energies = torch.stack([sizes[:, part].square().sum(1) for part in parts], 1)
        gate, up, down = (
            weights.pop(f"{blk}.ffn_{part}.weight") for part in ("gate", "up", "down")
        )
        weights |= {
            f"{blk}.ffn_gate_inp.weight": router_of(seen.tokens("ffn_gate_up"), energies),
            f"{blk}.ffn_gate_exps.weight": torch.stack([gate[part] for part in parts]),
            f"{blk}.ffn_up_exps.weight": torch.stack([up[part] for part in parts]),
            # a token's experts have shares well below 1
            f"{blk}.ffn_down_exps.weight": torch.stack([down[:, part] for part in parts]) * 3,
            f"{blk}.ffn_gate_shexp.weight": gate[own],
            f"{blk}.ffn_up_shexp.weight": up[own],
            f"{blk}.ffn_down_shexp.weight": down[:, own] * 2,  # its gate starts at a half
            f"{blk}.ffn_gate_inp_shexp.weight": torch.zeros(1, arch.hidden),
        }
    return weights | {"output.weight": weights["token_embd.weight"].clone()}


def config_of(checkpoint: Checkpoint) -> dict[str, object]:
    """config.json of the model with experts."""
    return checkpoint.config | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "moe_intermediate_size": INNER,
        "shared_expert_intermediate_size": SHARED,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
    }


def make(folder: Path, steps: int = 300, seed: int = 0) -> float:
    """Write the model; returns its mean KL to the original in the last steps of healing."""
    checkpoint = open_checkpoint(bundled())
    config = config_of(checkpoint)
    arch = family_of(config).arch(config)
    weights = split(checkpoint)
    student = {name: weights[name].contiguous().clone() for name in arch.shapes()}
    rows = calib_data.load("builtin", checkpoint.tokenizer, 0, LENGTH, seed).ids
    loss = heal(checkpoint.arch, read(checkpoint), arch, student, rows, steps, seed)
    folder.mkdir(parents=True, exist_ok=True)
    named: Weights = {}
    for name, hf in arch.hf_names().items():
        value = student[name].bfloat16()
        if "{expert}" not in hf:
            named[hf] = value
            continue
        named |= {hf.replace("{expert}", str(at)): part.clone() for at, part in enumerate(value)}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for file in FILES:
        (folder / file).write_bytes((checkpoint.folder / file).read_bytes())
    return loss


def main() -> None:
    """Make the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    loss = make(flags.output, flags.steps, flags.seed)
    print(f"{flags.output}: KL {loss:.4f} to the original after {flags.steps} steps")


if __name__ == "__main__":
    main()
