"""Checkpoints derived from the bundled one, to see whether what wins there wins elsewhere.

    python bench/derive.py outliers OUTPUT
    python bench/derive.py narrow OUTPUT [--steps 800] [--seed 0]

`outliers` computes what the original computes, but four channels of every norm's output are 32
times as large, and the columns that read them 32 times as small: exact in bf16, and hard on plain
rounding, as large models are. `narrow` has 224 residual channels instead of 256, in four heads of
56, so that rows do not fit blocks of 256 weights, as those of Qwen2.5-0.5B do not: what carries
least is cut, and the rest is healed by distillation from the original, in minutes on one core.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
from quantize.calibration.stream import run
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.archs import Arch
from runtime.backends.torch import TorchOps
from runtime.engine import open_engine
from runtime.forward import forward, layers

Weights = dict[str, torch.Tensor]
"""Runtime name -> float32 weight."""

CHANNELS, FACTOR = 4, 32.0
"""Outlier channels of a norm, and how much larger they become: a power of two, exact in bf16."""
NARROW = 224
"""Residual channels of the narrow model: 7 x 32, no multiple of 256. The heads have as many
channels together, which llama.cpp asks of this family."""
LENGTH, BATCH = 256, 4
"""Tokens a row and rows a step while healing."""
SAMPLED = 128
"""Rows drawn from the original itself."""
RATE = 1e-3
"""Adam's greatest step; it rises over a twentieth of the steps and falls to zero by a cosine."""
FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def read(checkpoint: Checkpoint) -> Weights:
    """Every weight of a checkpoint."""
    tensors = checkpoint.tensors.items()
    return {name: torch.from_numpy(np.array(tensor.decode())) for name, tensor in tensors}


def save(checkpoint: Checkpoint, weights: Weights, changes: dict[str, int], folder: Path) -> None:
    """Write weights as bf16 with the checkpoint's config.json, changed, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    hf_names = checkpoint.arch.hf_names()
    named = {hf_names[name]: w.bfloat16().contiguous() for name, w in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    config = checkpoint.config | changes
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in FILES:
        if (checkpoint.folder / name).exists():
            shutil.copyfile(checkpoint.folder / name, folder / name)


def outliers(checkpoint: Checkpoint, folder: Path, seed: int = 0) -> None:
    """Enlarge CHANNELS of every norm's output by FACTOR; the function stays the same."""
    weights, rng = read(checkpoint), np.random.default_rng(seed)
    for layer in range(checkpoint.arch.layers):
        for group in checkpoint.arch.layer(layer).groups:
            norm = weights[f"blk.{layer}.{group.fold}.weight"]
            if norm.ndim > 1:
                continue  # a linear before: nothing of this kind is seen there in large models
            chosen = rng.choice(len(norm), CHANNELS, replace=False)
            norm[chosen] *= FACTOR
            for linear in group.linears:
                weights[f"blk.{layer}.{linear}.weight"][:, chosen] /= FACTOR
    save(checkpoint, weights, {}, folder)


def narrow(
    checkpoint: Checkpoint,
    folder: Path,
    steps: int = 800,
    seed: int = 0,
    length: int = LENGTH,
    sampled: int = SAMPLED,
) -> float:
    """Cut the model to NARROW channels and heal; returns the mean KL of the last steps."""
    wide, teacher = checkpoint.arch, read(checkpoint)
    config = {"hidden_size": NARROW, "head_dim": NARROW // wide.heads}
    arch = checkpoint.family.arch(checkpoint.config | config)
    rows = calib_data.load("builtin", checkpoint.tokenizer, 0, length, seed).ids
    student = cut_residual(teacher, strongest(wide, teacher, rows[:64], NARROW))
    cut_heads(student, wide, arch.head_dim)
    rows = np.concatenate([rows, sample(checkpoint, sampled, seed, length)])
    loss = heal(wide, teacher, arch, student, rows, steps, seed)
    save(checkpoint, student, config, folder)
    return loss


@torch.inference_mode()
def strongest(arch: Arch, weights: Weights, rows: np.ndarray, count: int) -> np.ndarray:
    """The residual channels of most energy, summed over the states after every layer, sorted."""
    hidden = weights["token_embd.weight"].numpy()[rows]  # (rows, T, D)
    energy = np.zeros(arch.hidden)
    for layer in layers(arch, weights):
        run(TorchOps(), layer, hidden, hidden, {})
        squares = np.square(hidden).mean((0, 1))  # (D,)
        energy += squares / squares.sum()  # the states grow from layer to layer
    return np.sort(np.argsort(energy)[-count:])


def cut_residual(weights: Weights, kept: np.ndarray) -> Weights:
    """Weights without the other residual channels: rows of what writes there, columns of readers.

    A norm divides by the mean square, which grows when weak channels leave: its weight makes up.
    """
    out: Weights = {}
    for name, weight in weights.items():
        part = name.split(".")[-2]
        if "norm" in part:
            out[name] = weight[kept] * (len(weight) / len(kept)) ** 0.5
        elif part in ("attn_output", "ffn_down"):
            out[name] = weight[kept]
        else:
            out[name] = weight[:, kept] if weight.ndim == 2 else weight.clone()
    return out


def cut_heads(weights: Weights, arch: Arch, width: int) -> None:
    """Leave `width` channels of each head, in place.

    Of queries and keys the pairs stay whose frequencies are nearest to those that rope gives to the
    narrower head; of values those that the largest weights write and read.
    """
    half, shared = arch.head_dim // 2, arch.heads // arch.kv_heads
    pairs = np.round(np.arange(width // 2) * arch.head_dim / width).astype(int)
    turned = np.concatenate([pairs, pairs + half])  # (width,)
    first = np.arange(arch.heads)[:, None] * arch.head_dim  # (H, 1): where each head starts
    queries, keys = (first + turned).ravel(), (first[: arch.kv_heads] + turned).ravel()
    for layer in range(arch.layers):
        blk = f"blk.{layer}"
        written = weights[f"{blk}.attn_v.weight"].square().sum(1)  # (K * C,)
        read_by = weights[f"{blk}.attn_output.weight"].square().sum(0)  # (H * C,)
        read_by = read_by.reshape(arch.kv_heads, shared, arch.head_dim).sum(1)
        worth = written.reshape(arch.kv_heads, -1) * read_by  # (K, C)
        best = worth.argsort(1)[:, -width:].sort(1).values.numpy()  # (K, width)
        values = (first[: arch.kv_heads] + best).ravel()
        inputs = (first + best.repeat(shared, 0)).ravel()
        for part, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", values)):
            for kind in ("weight", "bias"):
                if (name := f"{blk}.{part}.{kind}") in weights:
                    weights[name] = weights[name][rows]
        name = f"{blk}.attn_output.weight"
        weights[name] = weights[name][:, inputs]


@torch.inference_mode()
def sample(checkpoint: Checkpoint, count: int, seed: int, length: int) -> np.ndarray:
    """Rows of `length` tokens drawn from the model at temperature 1, after its separator."""
    engine = open_engine(checkpoint.model(), "torch")
    generator = torch.Generator().manual_seed(seed)
    ids = np.full((count, length), checkpoint.tokenizer.separator or 0, np.int32)
    cache = engine.new_cache(count, length)
    for at in range(1, length):
        logits = engine.logits(ids[:, at - 1 : at], cache, last=True)[:, 0]  # (count, V)
        chances = functional.softmax(torch.from_numpy(logits), -1)
        ids[:, at] = torch.multinomial(chances, 1, generator=generator)[:, 0].numpy()
    return ids


def heal(
    wide: Arch,
    teacher: Weights,
    arch: Arch,
    student: Weights,
    rows: np.ndarray,
    steps: int,
    seed: int,
) -> float:
    """Train the student in place on the teacher's logits; returns the last 20 steps' mean KL."""
    ops, rng = TorchOps(), np.random.default_rng(seed)
    for weight in student.values():
        weight.requires_grad_()
    adam = torch.optim.Adam(student.values(), RATE, betas=(0.9, 0.95))
    decoders = layers(wide, teacher), layers(arch, student)
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(steps):
        batch = rows[rng.integers(len(rows), size=BATCH)]
        with torch.no_grad():
            target = functional.log_softmax(forward(ops, wide, teacher, decoders[0], batch), -1)
        found = functional.log_softmax(forward(ops, arch, student, decoders[1], batch), -1)
        loss = (target.exp() * (target - found)).sum(-1).mean()
        adam.param_groups[0]["lr"] = RATE * schedule(step, steps)
        adam.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(student.values(), 1.0)
        adam.step()
        losses.append(loss.item())
        if step % 20 == 19:
            passed = time.perf_counter() - start
            print(f"step {step + 1}: KL {np.mean(losses[-20:]):.4f}, {passed:.0f} s", flush=True)
    for weight in student.values():
        weight.requires_grad_(False)
    return float(np.mean(losses[-20:]))


def schedule(step: int, steps: int) -> float:
    """Share of the greatest step size: a short rise, then half a cosine to zero."""
    rise = max(1, steps // 20)
    return min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))


def main() -> None:
    """Derive one checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("outliers", "narrow"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=800, help="of healing, for narrow")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    source = open_checkpoint(bundled())
    if flags.kind == "outliers":
        outliers(source, flags.output, flags.seed)
    else:
        loss = narrow(source, flags.output, flags.steps, flags.seed)
        print(f"{flags.output}: KL {loss:.4f} to the original after {flags.steps} steps")


if __name__ == "__main__":
    main()
