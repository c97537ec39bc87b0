"""GPTQModel's GPTQ on the layer of `block.py`; `quantize_speed.py` starts it in its own Python.

For every line of its input it quantizes the layer once and answers with a line of JSON: seconds
for the Hessians and for the rounding. Linears that share an input share a Hessian and its factor,
as in GPTQModel's own pipeline. Groups of 32 with a zero point: what Q4_K has.
"""

import contextlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import block

with contextlib.redirect_stdout(sys.stderr):  # it greets
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ, SharedHessianFactorCache

CONFIG: dict[str, Any] = {"bits": 4, "group_size": 32, "sym": False, "desc_act": False}


def tasks(stage: int) -> list[GPTQ]:
    """A GPTQ of each linear of a stage."""
    made = []
    for values in block.weights(stage).values():
        rows, width = values.shape
        linear = torch.nn.Linear(width, rows, bias=False)
        linear.weight.data = torch.from_numpy(values)
        made.append(GPTQ(linear, QuantizeConfig(**CONFIG)))
        made[-1].quantizer.configure(perchannel=True)
    return made


@torch.inference_mode()
def quantize(stage: int) -> tuple[float, float]:
    """Seconds for the Hessian of a stage and for the rounding of its linears."""
    leader, *followers = made = tasks(stage)
    batches = [torch.from_numpy(batch) for batch in block.inputs(stage)]
    start = time.perf_counter()
    for batch in batches:
        leader.add_batch(batch, batch)  # it does not look at outputs
    leader.materialize_global_hessian()
    middle = time.perf_counter()
    cache = SharedHessianFactorCache(leader.fwd_counter, f"stage{stage}")
    for follower in followers:
        follower.adopt_hessian_from(leader)
    for task in made:
        task.attach_shared_hessian_cache(cache)
        task.quantize()
        task.free()
    return middle - start, time.perf_counter() - middle


def main() -> None:
    """Answer until the input ends; the first line tells the version."""
    torch.set_num_threads(int(sys.argv[1]))
    answers = sys.stdout
    sys.stdout = sys.stderr  # its progress is not for us
    print(json.dumps({"version": version("gptqmodel")}), file=answers, flush=True)
    for _ in sys.stdin:
        seconds = [quantize(stage) for stage in block.STAGES]
        told = {"hessians": sum(s[0] for s in seconds), "rounding": sum(s[1] for s in seconds)}
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
