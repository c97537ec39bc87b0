"""The command line: each body builds a Plan or opens files and calls one function."""

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import typer.core
from rich.console import Console
from rich.text import Text

import quantize
from calib_data import CalibrationError
from quantize.progress import Bar
from runtime.errors import EdgequantError

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from quantize.plan import Plan


class Interrupted(Exception):
    """Ctrl-C during a command, which typer would turn into a bare exit code."""


class Commands(typer.core.TyperGroup):
    """The commands, with a Ctrl-C that `main` sees."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(ctx.invoked_subcommand) from None


app = typer.Typer(
    name="quantize",
    cls=Commands,
    help="Quantize language models for laptops and phones, and prove the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
PIPE_WIDTH = 160
"""Columns of a table that goes into a file or another program."""

# without markup: "[hub]" or a rule such as attn_[qk] is text
width = None if sys.stdout.isatty() else PIPE_WIDTH
console = Console(highlight=False, markup=False, width=width)
errors = Console(stderr=True, highlight=False, markup=False)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[
    str | None,
    typer.Argument(help="Checkpoint folder or hub id. Default: the bundled tiny-qwen2.5."),
]
To = Annotated[
    list[str] | None,
    typer.Option("--to", help="CONTAINER:PRESET, repeatable; see `quantize list`."),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder for artifacts and report.")
]
Rules = Annotated[list[str] | None, typer.Option("--rule", help="REGEX=TYPE for matching tensors.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="TOML file with a plan; flags win over it.")
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="gptq, awq, awq-gptq or rtn. Default: gptq; rtn with --imatrix."),
]
EffortName = Annotated[
    str | None,
    typer.Option("--effort", help="low, medium or high: work spent on better values."),
]
TargetSize = Annotated[
    str | None, typer.Option(help="Most bytes of gguf:auto or onnx:auto, like 350MB or 300MiB.")
]
TargetBpw = Annotated[
    float | None, typer.Option("--target-bpw", help="Most bits a weight of gguf:auto or onnx:auto.")
]
RewriteNames = Annotated[
    list[str] | None,
    typer.Option("--rewrite", help="Function-preserving rewrite, repeatable; none for none."),
]
Calibration = Annotated[
    str | None,
    typer.Option(help="builtin[:domains], a .txt/.jsonl/.parquet, hub:..., or self."),
]
ImatrixFile = Annotated[
    Path | None,
    typer.Option("--imatrix", help="llama.cpp's importance matrix, instead of calibration text."),
]
CalibRows = Annotated[int | None, typer.Option(help="Calibration windows. Default: 64.")]
CalibLength = Annotated[int | None, typer.Option(help="Tokens a window. Default: 512.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the choice of text. Default: 0.")]
Damp = Annotated[
    float | None, typer.Option(help="GPTQ damping, share of the mean diagonal. Default: 0.01.")
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback", help="Round to nearest where a Hessian is singular."),
]
MaxRam = Annotated[
    float | None, typer.Option(help="GiB of hidden states before they go to disk. Default: 8.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")]
Overwrite = Annotated[bool | None, typer.Option("--overwrite", help="Replace outputs.")]
Check = Annotated[bool | None, typer.Option("--check/--no-check", help="Judge what was written.")]
Against = Annotated[
    str | None, typer.Option("--against", help="The original. Default: the bundled one.")
]
MaxKl = Annotated[
    float | None, typer.Option(help="Gate: highest mean KL divergence, nats a token.")
]
MinTop1 = Annotated[float | None, typer.Option(help="Gate: least top-1 agreement, 0 to 1.")]
MaxRatio = Annotated[
    float | None,
    typer.Option("--max-ppl-ratio", help="Gate: highest perplexity over the original's."),
]
Baseline = Annotated[
    Path | None, typer.Option(help="Gate: an earlier report.json that must not get worse.")
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--eval-data", help="Evaluation text: a file, or (default) the held-out part of builtin."
    ),
]
EvalRows = Annotated[int | None, typer.Option(help="Evaluation windows; 0 = all, at most 64.")]
EvalLength = Annotated[int | None, typer.Option(help="Tokens a window.")]
Backend = Annotated[str, typer.Option(help="Engine for GGUF files.")]


def plan_flags(**flags: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


def planned(
    model: Model = None,
    to: To = None,
    output: Output = None,
    method: MethodName = None,
    effort: EffortName = None,
    rewrite: RewriteNames = None,
    target_size: TargetSize = None,
    target_bpw: TargetBpw = None,
    rule: Rules = None,
    plan: PlanFile = None,
    calibration: Calibration = None,
    imatrix: ImatrixFile = None,
    calib_rows: CalibRows = None,
    calib_length: CalibLength = None,
    seed: Seed = None,
    damp: Damp = None,
    allow_fallback: AllowFallback = None,
    max_ram: MaxRam = None,
    device: Device = None,
    overwrite: Overwrite = None,
    check_: Check = None,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    max_ppl_ratio: MaxRatio = None,
    baseline: Baseline = None,
    eval_data: EvalData = None,
    eval_rows: EvalRows = None,
    eval_length: EvalLength = None,
) -> "Plan":
    """The plan that the flags of `run` and `plan` describe."""
    from quantize.plan import Plan

    flags = plan_flags(
        model=model, to=to or None, output=output, method=method, target_size=target_size,
        target_bpw=target_bpw, effort=effort, rewrites=rewrite or None, rules=rule or None,
        calibration=calibration, imatrix=imatrix, rows=calib_rows, length=calib_length, seed=seed,
        damp=damp, allow_fallback=allow_fallback, max_ram=max_ram, device=device,
        overwrite=overwrite, check=check_, max_kl=max_kl, min_top1=min_top1,
        max_ppl_ratio=max_ppl_ratio, baseline=baseline, eval_data=eval_data, eval_rows=eval_rows,
        eval_length=eval_length,
    )  # fmt: skip
    return Plan.from_flags(plan, flags)


def takes_plan(body: Callable[["Plan", bool], None]) -> None:
    """Make a command of `body`, with the flags of `planned` and --json."""

    def command(as_json: bool, **flags: Any) -> None:
        body(planned(**flags), as_json)

    shared = inspect.signature(planned)
    option = inspect.Parameter(
        "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json
    )
    signature = inspect.Signature([*shared.parameters.values(), option])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    app.command(body.__name__, help=body.__doc__)(command)


@takes_plan
def run(made: "Plan", as_json: bool) -> None:
    """Quantize a checkpoint, write the artifacts, and prove them against the original."""
    from quantize import pipeline

    with Bar(errors) as bar:
        report = pipeline.run(made, bar.update, bar.say)
    if report is not None:
        finish_report(report, as_json)
    else:
        files = pipeline.artifacts(made)
        lines = [f"{file['path']}: {file['bytes']:,} bytes, not checked" for file in files]
        show_result({"artifacts": files}, "\n".join(lines), as_json)


@takes_plan
def plan(made: "Plan", as_json: bool) -> None:
    """Say what a run with the same flags would make: types, bytes, memory, disk and time."""
    from quantize import forecast

    with Bar(errors) as bar:
        result = forecast.forecast(made, bar.update)
    show_result(result.to_json(), forecast.render(result), as_json)


@app.command()
def imatrix(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, NAME.gguf.")],
    model: Model = None,
    calibration: Calibration = None,
    calib_rows: CalibRows = None,
    calib_length: CalibLength = None,
    seed: Seed = None,
    max_ram: MaxRam = None,
    device: Device = None,
    overwrite: Overwrite = None,
    as_json: Json = False,
) -> None:
    """Make an importance matrix for llama.cpp's quantizer, or for `run --imatrix`."""
    from quantize import collect

    flags = plan_flags(
        model=model, calibration=calibration, rows=calib_rows, length=calib_length, seed=seed,
        max_ram=max_ram, device=device, overwrite=overwrite,
    )  # fmt: skip
    with Bar(errors) as bar:
        made = collect.make(collect.Request(output, **flags), bar.update)
    result = made.summary() | {"path": str(output), "bytes": output.stat().st_size}
    shown = (
        f"{output}: {result['bytes']:,} bytes, {result['entries']} weights, "
        f"{result['chunks']} windows of {result['chunk_size']} tokens"
    )
    show_result(result, shown, as_json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A .gguf file or an ONNX folder.")],
    against: Against = None,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    max_ppl_ratio: MaxRatio = None,
    baseline: Baseline = None,
    eval_data: EvalData = None,
    eval_rows: EvalRows = None,
    eval_length: EvalLength = None,
    backend: Backend = "native",
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for report.html and report.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a file against its original; when a gate fails exit 1 and name it FILE.rejected."""
    from quantize.report import judge

    flags = plan_flags(
        max_kl=max_kl, min_top1=min_top1, max_ppl_ratio=max_ppl_ratio, baseline=baseline,
        eval_data=eval_data, eval_rows=eval_rows, eval_length=eval_length,
    )  # fmt: skip
    with Bar(errors) as bar:
        result = judge.check_files([file], against, report, backend, flags, bar.update, reject=True)
    finish_report(result, as_json)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Artifacts of one model, ours or foreign.")],
    against: Against = None,
    eval_data: EvalData = None,
    eval_rows: EvalRows = None,
    eval_length: EvalLength = None,
    backend: Backend = "native",
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for report.html and report.json.")
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", help="File for the chart of bytes against KL: .svg or .png."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Several artifacts on the same text: bytes against KL, and which of them beats which."""
    from quantize.report import comparison

    flags = plan_flags(eval_data=eval_data, eval_rows=eval_rows, eval_length=eval_length)
    with Bar(errors) as bar:
        result = comparison.compare_files(files, against, report, chart, backend, flags, bar.update)
    finish_report(result, as_json, comparison.table)


@app.command()
def generate(
    file: Annotated[
        Path, typer.Argument(help="A .gguf file, an ONNX folder or a checkpoint folder.")
    ],
    prompt: Annotated[str, typer.Argument(help="Text, or the user's turn with --chat.")],
    count: Annotated[int, typer.Option("-n", "--count", help="Most new tokens.")] = 128,
    chat: Annotated[bool, typer.Option("--chat", help="Use the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.")] = None,
    temperature: Annotated[float, typer.Option(help="0 = greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 = all tokens.")] = 0,
    top_p: Annotated[float, typer.Option(help="Least mass of likely tokens.")] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Default: native, onnxruntime for ONNX.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stream text from a model."""
    from quantize import opening
    from runtime.generate import generate_text
    from runtime.sample import Sampler

    engine = opening.open_any(file, backend, resident=True)
    if chat:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        prompt = opening.render(engine, messages)
    sampler = Sampler(temperature, top_k, top_p, seed)
    pieces = generate_text(engine, prompt, count, sampler, tuple(stop or ()))
    if as_json:
        typer.echo(json.dumps({"prompt": prompt, "text": "".join(pieces)}, ensure_ascii=False))
        return
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
def bench(
    file: Annotated[Path, typer.Argument(help="A .gguf file, an ONNX folder or a checkpoint.")],
    against: Annotated[
        str | None, typer.Option("--against", help="Engine to compare with: llama.cpp.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each engine. Default: every core.")
    ] = None,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    generate_: Annotated[
        int, typer.Option("--generate", help="Tokens to generate in a round.")
    ] = 64,
    context: Annotated[int, typer.Option(help="Tokens in the cache before generation.")] = 0,
    repeat: Annotated[int, typer.Option(help="Rounds; figures are their medians.")] = 5,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="File for a chart of speeds: .svg or .png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How fast a file runs here: prompt, generation, loading, memory, and what limits it."""
    from quantize.bench import show as shown
    from quantize.bench import speed

    used = speed.usable_cores() if threads is None else threads
    asked = speed.Request(file, used, against, prompt, generate_, context, repeat, chart)
    with Bar(errors) as bar:
        result = speed.measure(asked, bar.update)
    if chart is not None:
        shown.write(result, chart)
    show_result(result.to_json(), shown.table(result), as_json)


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(help="A .gguf file, an ONNX folder or a checkpoint folder.")
    ],
    as_json: Json = False,
) -> None:
    """What is inside a file: sizes, types and bytes by tensor, provenance."""
    from quantize import catalogue

    result = catalogue.describe(file)
    show_result(result, catalogue.render_description(result), as_json)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="methods, rewrites, types, presets, archs or backends.")
    ] = "presets",
    as_json: Json = False,
) -> None:
    """What this version knows."""
    from quantize import catalogue

    result = catalogue.rows(what)
    show_result(result, catalogue.render_rows(what, result), as_json)


def show_result(result: Any, shown: Any, as_json: bool) -> None:
    """JSON or a table on stdout."""
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        console.print(shown, soft_wrap=isinstance(shown, str))  # a path is not broken


def finish_report(report: Any, as_json: bool, table: Callable[[Any], Any] | None = None) -> None:
    """Print a report, as the usual table unless another is given; exit with 1 on a failed gate."""
    from quantize.report import render

    show_result(report.to_json(), (table or render.table)(report), as_json)
    failures = report.failures
    for line in failures:
        errors.print(Text.assemble(("gate failed", "red"), " ", line), soft_wrap=True)
    if failures:
        raise typer.Exit(1)


def version(show_version: bool) -> None:
    """Print the version and leave."""
    if show_version:
        typer.echo(f"edgequant {quantize.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> NoReturn:
    """Run the command line: exit 0 ok, 1 a gate failed, 2 usage or bad input, 130 interrupted."""
    try:
        app()
    except Interrupted as command:
        again = "; run the same command again to go on after the last finished stage"
        errors.print(f"interrupted{again if command.args[0] == 'run' else ''}.", soft_wrap=True)
        sys.exit(130)
    except (EdgequantError, CalibrationError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        errors.print(Text.assemble(("error", "red"), " ", str(error)), soft_wrap=True)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
