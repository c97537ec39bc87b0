"""Print what another project computes of folders: runs in a Python that has that project.

    python tests/export/peers.py PEER FOLDER...

Into each folder goes PEER.npy, the logits of IDS, at the places and tokens of KEPT.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

IDS = np.arange(7, 31)[None]
KEPT = (slice(20, 24), slice(0, 128))
"""Places and tokens of the logits that are kept."""


def gptqmodel(folder: str) -> Any:
    """Through transformers, in float16."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu")


def auto_gptq(folder: str) -> Any:
    """In float32, without kernels for a card."""
    from auto_gptq import AutoGPTQForCausalLM
    from safetensors.torch import load_file

    off = dict.fromkeys(("inject_fused_attention", "inject_fused_mlp"), False)
    off |= dict.fromkeys(("disable_exllama", "disable_exllamav2", "use_safetensors"), True)
    kind = torch.float32
    model = AutoGPTQForCausalLM.from_quantized(folder, device="cpu", torch_dtype=kind, **off)
    model = model.model.float()
    if model.config.tie_word_embeddings:  # it leaves both unset, whatever the file holds
        table = load_file(Path(folder, "model.safetensors"))["model.embed_tokens.weight"].float()
        model.model.embed_tokens.weight.data = model.lm_head.weight.data = table
    return model


def autoawq(folder: str) -> Any:
    """In float16, without kernels for a card."""
    import awq.models.base as base
    import awq.modules.linear.gemm as gemm
    from awq import AutoAWQForCausalLM

    base.get_best_device = lambda: "cuda:0"  # its own name for a CPU asks for Intel's package
    gemm.TRITON_AVAILABLE = False
    return AutoAWQForCausalLM.from_quantized(
        folder, fuse_layers=False, device_map={"": "cpu"}
    ).model


PEERS: dict[str, Callable[[str], Any]] = {
    "gptqmodel": gptqmodel,
    "auto-gptq": auto_gptq,
    "autoawq": autoawq,
}


def main() -> None:
    """Load each folder and keep its logits."""
    peer, *folders = sys.argv[1:]
    for folder in folders:
        model = PEERS[peer](folder)
        with torch.no_grad():
            logits = model(torch.from_numpy(IDS)).logits[0].float().numpy()
        np.save(Path(folder, f"{peer}.npy"), logits[KEPT])


if __name__ == "__main__":
    main()
