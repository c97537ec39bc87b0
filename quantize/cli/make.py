"""Commands that begin with a checkpoint: `run`, `plan`, `convert`, `imatrix` and `mmproj`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantize.cli import interrupt, options
from quantize.cli.bar import Bar
from quantize.cli.screen import errors, finish_report, show_result
from runtime.errors import InputError

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from quantize.plan import Plan


def planned(
    model: options.Model = None,
    adapter: options.Adapter = None,
    to: options.To = None,
    output: options.Output = None,
    method: options.MethodName = None,
    effort: options.EffortName = None,
    rewrite: options.RewriteNames = None,
    target_size: options.TargetSize = None,
    target_bpw: options.TargetBpw = None,
    rule: options.Rules = None,
    plan: options.PlanFile = None,
    calibration: options.Calibration = None,
    calib_images: options.CalibImages = None,
    imatrix: options.ImatrixFile = None,
    calib_rows: options.CalibRows = None,
    calib_length: options.CalibLength = None,
    seed: options.Seed = None,
    damp: options.Damp = None,
    allow_fallback: options.AllowFallback = None,
    calibrate_all_experts: options.AllExperts = None,
    max_ram: options.MaxRam = None,
    device: options.Device = None,
    ray: options.Ray = None,
    overwrite: options.Overwrite = None,
    check_: options.Check = None,
    max_kl: options.MaxKl = None,
    max_kl_p99: options.MaxKl99 = None,
    max_kl_p999: options.MaxKl999 = None,
    min_top1: options.MinTop1 = None,
    max_flipped: options.MaxFlipped = None,
    max_ppl_ratio: options.MaxRatio = None,
    max_image_kl: options.MaxImageKl = None,
    min_rank: options.MinRank = None,
    baseline: options.Baseline = None,
    max_kl_increase: options.MaxIncrease = None,
    eval_data: options.EvalData = None,
    eval_rows: options.EvalRows = None,
    eval_length: options.EvalLength = None,
) -> "Plan":
    """The plan that the flags of `run` and `plan` describe."""
    from quantize.plan import Plan

    flags = options.given(
        model=model, adapter=adapter or None, to=to or None, output=output, method=method,
        target_size=target_size, target_bpw=target_bpw, effort=effort, rewrites=rewrite or None,
        rules=rule or None, calibration=calibration, calib_images=calib_images, imatrix=imatrix,
        rows=calib_rows, length=calib_length, seed=seed, damp=damp, allow_fallback=allow_fallback,
        calibrate_all_experts=calibrate_all_experts,
        max_ram=max_ram, device=device, ray=ray, overwrite=overwrite, check=check_, max_kl=max_kl,
        max_kl_p99=max_kl_p99, max_kl_p999=max_kl_p999, min_top1=min_top1, max_flipped=max_flipped,
        max_ppl_ratio=max_ppl_ratio, max_image_kl=max_image_kl, min_rank=min_rank,
        baseline=baseline, max_kl_increase=max_kl_increase, eval_data=eval_data,
        eval_rows=eval_rows, eval_length=eval_length,
    )  # fmt: skip
    return Plan.from_flags(plan, flags)


def takes_plan(body: Callable[..., None]) -> Callable[..., None]:
    """A command of `body`, with the flags of `planned` before its own; its first is the plan."""
    shared = inspect.signature(planned).parameters
    _, *own = inspect.signature(body).parameters.values()

    def command(**flags: Any) -> None:
        rest = {parameter.name: flags.pop(parameter.name) for parameter in own}
        body(planned(**flags), **rest)

    signature = inspect.Signature([*shared.values(), *own])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    command.__doc__ = body.__doc__
    return command


@takes_plan
def run(made: "Plan", junit: options.Junit = None, as_json: options.Json = False) -> None:
    """Quantize a checkpoint, write the artifacts, and prove them against the original."""
    from quantize.report import for_ci
    from quantize.run import pipeline

    if junit is not None:
        if not made.check:
            raise InputError("--junit tells of checks, and --no-check makes none; leave out one.")
        for_ci.check_path(junit)
    with Bar(errors) as bar:
        report = pipeline.run(made, bar.update, bar.say)
    interrupt.too_late()
    if report is not None:
        finish_report(report, as_json, made.output, junit=junit)
    else:
        files = pipeline.artifacts(made)
        lines = [f"{file['path']}: {file['bytes']:,} bytes, not checked" for file in files]
        show_result({"artifacts": files}, "\n".join(lines), as_json)


@takes_plan
def plan(made: "Plan", as_json: options.Json = False) -> None:
    """Say what a run with the same flags would make: types, bytes, memory, disk and time."""
    from quantize.run import forecast

    with Bar(errors) as bar:
        result = forecast.forecast(made, bar.update)
    show_result(result.to_json(), forecast.render(result), as_json)


def convert(
    to: Annotated[
        list[str], typer.Option("--to", help="Container: gguf, onnx, onnx-f16, gptq or awq.")
    ],
    model: options.Model = None,
    output: options.Output = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Refuse where a weight would have to be rounded.")
    ] = False,
    overwrite: options.Overwrite = None,
    as_json: options.Json = False,
) -> None:
    """Write a model in another format, its codes kept wherever the format's grids hold them."""
    from quantize.run import convert as conversion

    for container in to:
        conversion.check_container(container)
    found, lines = [], []
    with Bar(errors) as bar:
        for container in to:
            made = conversion.convert(
                model, container, output or Path("dist"), exact=exact, overwrite=bool(overwrite),
                progress=bar.update, say=bar.say,
            )  # fmt: skip
            found.append(made.to_json())
            lines += [weight.line() for weight in made.weights]
            lines.append(f"{made.path}: {made.bytes:,} bytes, {conversion.summary(made.weights)}")
    show_result(found[0] if len(found) == 1 else found, "\n".join(lines), as_json)


def imatrix(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, NAME.gguf.")],
    model: options.Model = None,
    adapter: options.Adapter = None,
    calibration: options.Calibration = None,
    calib_images: options.CalibImages = None,
    calib_rows: options.CalibRows = None,
    calib_length: options.CalibLength = None,
    seed: options.Seed = None,
    max_ram: options.MaxRam = None,
    device: options.Device = None,
    overwrite: options.Overwrite = None,
    as_json: options.Json = False,
) -> None:
    """Make an importance matrix for llama.cpp's quantizer, or for `run --imatrix`."""
    from quantize.calibration import make_imatrix

    flags = options.given(
        model=model, adapter=adapter or None, calibration=calibration, calib_images=calib_images,
        rows=calib_rows, length=calib_length, seed=seed, max_ram=max_ram, device=device,
        overwrite=overwrite,
    )  # fmt: skip
    with Bar(errors) as bar:
        made = make_imatrix.make(make_imatrix.ImatrixRequest(output, **flags), bar.update, bar.say)
    result = made.summary() | {"path": str(output), "bytes": output.stat().st_size}
    shown = (
        f"{output}: {result['bytes']:,} bytes, {result['entries']} weights, "
        f"{result['chunks']} windows of {result['chunk_size']} tokens"
    )
    show_result(result, shown, as_json)


def mmproj(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, NAME.gguf.")],
    model: options.Model = None,
    kind: Annotated[str, typer.Option("--type", help="F32, F16 or Q8_0.")] = "F16",
    overwrite: options.Overwrite = None,
    as_json: options.Json = False,
) -> None:
    """Write the vision tower of a Qwen2-VL or Qwen2.5-VL, which llama.cpp takes as --mmproj."""
    from quantize.mmproj import make

    told: list[str] = []
    with Bar(errors) as bar:

        def say(line: str) -> None:
            told.append(line)
            bar.say(line)

        make(output, model, kind, overwrite=bool(overwrite), say=say)
    size = output.stat().st_size
    result = {"path": str(output), "bytes": size, "type": kind, "notes": told}
    show_result(result, f"{output}: {size:,} bytes", as_json)
