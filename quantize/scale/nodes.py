"""What a Ray node must have before work begins: this code, the model's files, a processor alike."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quantize.run.version import code_version
from quantize.scale.facts import Source, facts, refuse_other
from runtime.errors import InputError

ANSWER = 120.0
"""Seconds that a node may take to answer: it starts a process, and imports torch."""


def question() -> Callable[[Any, str], dict[str, Any]]:
    """What a node is asked. It travels as code, for a node may have another edgequant, or none."""

    def answer(source: tuple, code: str) -> dict[str, Any]:
        try:
            import quantize
            from quantize.run.version import code_version
        except ImportError as error:
            return {"version": "", "why": str(error)}
        if code_version() != code:
            return {"version": quantize.__version__}
        from quantize.scale.facts import Source, facts

        return {"facts": facts(Source(*source))}

    return answer


def check_nodes(source: Source) -> None:
    """Raise EdgequantError naming a node, and what it lacks or has otherwise than this machine."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = [node for node in nodes if node["Resources"].get("CPU", 0) >= source.threads]
    if not able:
        raise InputError(
            f"no Ray node has {source.threads} processors, which is what a piece of the work takes "
            "here; set OMP_NUM_THREADS to what the nodes have."
        )
    mine, values = facts(source), tuple(vars(source).values())
    asked = ray.remote(num_cpus=0, max_retries=1)(question())
    answers = {
        node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})": asked.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(values, code_version())
        for node in able
    }
    for name, answer in answers.items():
        try:
            found = ray.get(answer, timeout=ANSWER)
        except GetTimeoutError:
            raise InputError(
                f"the Ray node {name} did not answer within {ANSWER:g} seconds; take it out of the "
                "cluster, or look at its log."
            ) from None
        except RayError as error:
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            raise InputError(f"the Ray node {name} cannot compute: {reason}.") from error
        refuse_other(name, found, mine, source)
