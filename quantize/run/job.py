"""A plan, resolved: every word of it looked up, every file it names read, and checked, once.

What a run does reads this. Algorithms do not: they take arrays and their own settings.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import calib_data
import export
from quantize.allocation.budget import Goal
from quantize.calibration.calibration_text import check_length
from quantize.calibration.imatrix import Imatrix, for_model
from quantize.calibration.workers import HERE, Workers
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.methods import METHODS
from quantize.plan import (
    EFFORTS,
    Assignment,
    Effort,
    Plan,
    Rule,
    Target,
    check_rules,
    check_scores,
    window_length,
)
from quantize.progress import Progress, silent
from quantize.report.report import read_report
from quantize.report.tokens import check_tokenizer, failures
from quantize.report.torture import TORTURE
from quantize.run import act_order
from quantize.run.calibration import Calibration, calibration_of
from quantize.run.copied import Kept
from quantize.run.inputs import Inputs
from quantize.run.key import SOFT, key_of, sha256_of
from quantize.run.recipe import Recipe
from quantize.run.store import Store, folder_name, work_path
from quantize.run.version import code_version, machine
from quantize.run.way import WAYS, Way
from quantize.vision import open_vision
from runtime.backends.torch import check_device
from runtime.errors import InputError, UnsupportedError
from runtime.vision.vision import Vision


@dataclass(frozen=True)
class Group:
    """Targets that share one pass over the calibration rows."""

    name: str
    members: tuple[Assignment, ...]
    calibrated: bool

    @property
    def own_prefix(self) -> bool:
        """Whether hidden states pass through the only target's own rounded weights."""
        return self.calibrated and len(self.members) == 1


def group(assignments: tuple[Assignment, ...], calibrated: bool) -> tuple[Group, ...]:
    """Targets of 4 bits and more share one pass; below that each sees its own rounded prefix.

    Statistics from the full-precision prefix cost about 2% of KL at 4 bits, and far more at 2.
    """
    if not calibrated:
        return (Group("plain", assignments, False),)
    floats = tuple(a for a in assignments if a.is_float)
    shared = tuple(a for a in assignments if not a.is_float and a.bits >= 4)
    groups = [Group("shared", shared, True)] if shared else []
    groups += [
        Group(folder_name(a.target), (a,), True)
        for a in assignments
        if not a.is_float and a.bits < 4
    ]
    return (*groups, *([Group("plain", floats, False)] if floats else []))


@dataclass(frozen=True)
class Job:
    """All that a run needs to know."""

    checkpoint: Checkpoint
    fingerprint: str
    """Of the checkpoint."""
    targets: tuple[Target, ...]
    rules: tuple[Rule, ...]
    goal: Goal
    """Of automatic targets."""
    recipe: Recipe
    effort: Effort
    calibration: Calibration
    imatrix: Imatrix | None
    imatrix_keys: dict[str, Any]
    """What artifacts say of the imatrix file."""
    described: dict[str, Any]
    """What artifacts say of the plan: see `Plan.recipe`."""
    max_ram: float | None
    """GiB that the run may hold in memory; None = no limit."""
    device: str
    output: Path
    store: Store
    inputs: Inputs
    """The files that it reads of the checkpoint."""
    progress: Progress
    vision_sha256: str | None
    """What names the vision tower that the language model belongs to; None without one."""
    kept: Kept
    """Which weights need no rounding."""
    reader_notes: dict[str, tuple[str, ...]]
    """Container -> what its usual reader makes otherwise of the checkpoint's tokenizer."""
    vision: Vision | None = None
    """The vision tower, where artifacts hold it."""
    assignments: tuple[Assignment, ...] = ()
    """The types of every target, once they are known: see `assigned`."""
    groups: tuple[Group, ...] = ()
    """The targets by the walks that they share."""
    workers: Workers = HERE
    """Who goes through layers and rounds them."""
    way: Way = field(default_factory=lambda: WAYS[0])
    """How much the run holds at a time: see limited.py."""

    @property
    def context(self) -> int:
        """Tokens of the longest text that every artifact can be judged on."""
        arch = self.checkpoint.arch
        return min(export.CONTAINERS[target.container].context(arch) for target in self.targets)

    @staticmethod
    def resolve(plan: Plan, progress: Progress = silent, folder: Path | None = None) -> "Job":
        """Open and check all that a plan names; work goes into `folder`, or that of its output.

        Writes nothing. Raises EdgequantError for bad input. Types are given by `assigned`.
        """
        check_files(plan)
        containers = [export.CONTAINERS[target.container] for target in plan.targets]
        opened = open_checkpoint(plan.model, plan.adapter)
        checkpoint = act_order.absorbed_for(opened, containers)
        tower = open_vision(checkpoint)
        vision = held(plan, tower)
        check_rules(plan, checkpoint.arch, vision)
        check_experts(plan, checkpoint)
        check_scores(plan, checkpoint.arch)
        kept = Kept(checkpoint.tensors)
        act_order.check(plan, checkpoint.arch, kept)
        length = window_length(plan.length, checkpoint.arch.context)
        plan = replace(plan, length=length)  # as artifacts say it
        imatrix = for_model(plan.imatrix, checkpoint.arch)
        check_device(plan.device)
        if METHODS[plan.method].calibrated or any(target.automatic for target in plan.targets):
            check_length(length, checkpoint.arch.context)
        for container in dict.fromkeys(target.container for target in plan.targets):
            export.CONTAINERS[container].refuse(checkpoint.arch)
            refuse_other_tokens(container, checkpoint)
        fingerprint, effort, keys = checkpoint.fingerprint(), EFFORTS[plan.effort], {}
        if plan.imatrix and imatrix:
            digest = sha256_of(plan.imatrix)
            keys = imatrix.keys(plan.imatrix) | {"imatrix_sha256": digest}
        calibration = calibration_of(plan, effort, length, checkpoint)
        key = key_of(plan, fingerprint, code_version(), keys.get("imatrix_sha256", ""))
        inputs = Inputs(checkpoint, progress)
        rows = {"image_rows": calibration.image_rows} if calibration.images else {}
        return Job(
            checkpoint=checkpoint,
            fingerprint=fingerprint,
            targets=plan.targets,
            rules=plan.rules,
            goal=Goal(plan.target_size, plan.target_bpw, plan.max_kl),
            recipe=recipe_of(plan, effort),
            effort=effort,
            calibration=calibration,
            imatrix=imatrix,
            imatrix_keys=keys,
            described=plan.recipe() | checkpoint.facts | rows,
            max_ram=plan.max_ram,
            device=plan.device,
            output=plan.output,
            store=Store(folder or work_path(plan.output), {**key, SOFT: machine()}, inputs.digests),
            inputs=inputs,
            progress=progress,
            kept=kept,
            vision_sha256=tower.sha256() if tower else None,
            reader_notes={t.container: notes_of(t.container, checkpoint) for t in plan.targets},
            vision=vision,
        )

    def assigned(self, assignments: list[Assignment]) -> "Job":
        """The job with the types of every target."""
        found = tuple(assignments)
        return replace(self, assignments=found, groups=group(found, self.recipe.method.calibrated))

    @property
    def plain(self) -> Recipe:
        """How tensors are rounded of whose inputs nothing is known."""
        method = self.recipe.method
        return Recipe(METHODS["rtn"] if method.calibrated else method)

    @property
    def reads_text(self) -> bool:
        """Whether calibration text is read."""
        automatic = any(target.automatic for target in self.targets)
        return automatic or any(g.calibrated for g in self.groups)

    @property
    def tuning_steps(self) -> int:
        """Steps of tuning after rounding."""
        return self.effort.steps if self.recipe.method.calibrated else 0

    def compensates(self, members: Group) -> bool:
        """Whether a walk keeps the original's states beside the target's (compensation.py)."""
        return members.own_prefix and self.effort.compensates

    def streams(self, members: Group) -> bool:
        """Whether a walk decodes linears some rows at a time (streamed_layer.py).

        Compensation changes all weights of a layer at once.
        """
        return self.way.streamed and not self.compensates(members)

    @property
    def reader_lines(self) -> list[str]:
        """What is said aloud about readers of the artifacts."""
        told = self.reader_notes.items()
        return [f"{container}: {note}" for container, notes in told for note in notes]

    def path(self, target: Target) -> Path:
        """Final name of an artifact."""
        return target.path(self.output, self.checkpoint.name)


def held(plan: Plan, tower: Vision | None) -> Vision | None:
    """The tower, where an artifact is to hold it and config.json has the tokens of images."""
    sees = any(export.CONTAINERS[target.container].tower for target in plan.targets)
    return tower if sees and tower and tower.ids else None


def check_files(plan: Plan) -> None:
    """Raise EdgequantError for a text or baseline that is not there, whether it is used or not."""
    for spec in (plan.calibration, plan.eval_data):
        calib_data.check_spec(spec)
    if plan.baseline:
        read_report(plan.baseline)


def check_experts(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise EdgequantError where a plan is about experts and the model has none."""
    layers = map(checkpoint.arch.layer, range(checkpoint.arch.layers))
    if plan.calibrate_all_experts and not any(layer.mixture for layer in layers):
        raise InputError(
            f"{checkpoint.name} has no experts, which --calibrate-all-experts is about; leave it "
            "out."
        )


def recipe_of(plan: Plan, effort: Effort) -> Recipe:
    """How linears are rounded."""
    return Recipe(
        METHODS[plan.method],
        damp=plan.damp,
        allow_fallback=plan.allow_fallback,
        descent_iterations=effort.descent_iterations,
        rewrites=plan.chosen_rewrites,
    )


def refuse_other_tokens(container: str, checkpoint: Checkpoint) -> None:
    """Raise UnsupportedError for a container whose readers would cut texts in other tokens."""
    made = export.CONTAINERS[container].tokenizer(checkpoint.arch, checkpoint.files)
    found = failures(check_tokenizer(checkpoint.tokenizer, made)) if made else []
    if found:
        raise UnsupportedError(
            f"{container} cannot say this model's tokenizer: in the artifact {found[0]}; take a "
            "container that keeps tokenizer.json, such as onnx, and encode with the tokenizers "
            "library."
        )


def notes_of(container: str, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the usual reader of a container makes otherwise of a checkpoint, a sentence each.

    What scores texts is run with the checkpoint's own tokenizer.
    """
    kind, arch = export.CONTAINERS[container], checkpoint.arch
    told = kind.model_notes(arch)
    if arch.score_head is None:
        told += kind.reader_notes(checkpoint.tokenizer, checkpoint.files, TORTURE)
    if (context := kind.context(arch)) == arch.context:
        return told
    end = f"the context ends after {context:,} of {arch.context:,} tokens, because {kind.cut}"
    return (*told, end)
