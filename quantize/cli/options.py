"""The flags that several commands share: type, spelling and help."""

from pathlib import Path
from typing import Annotated, Any

import typer

GATES = "Gates: what fails exits with 1, what cannot be measured with 4"
"""Heading of the flags that hold an artifact to a limit."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[
    str | None,
    typer.Argument(help="Checkpoint folder, hub id or GGUF file. Default: the bundled one."),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(help="LoRA folder or hub id to merge into the checkpoint, repeatable."),
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
    float | None,
    typer.Option(
        "--target-bpw", help="Average bits per weight at most, for gguf:auto or onnx:auto."
    ),
]
RewriteNames = Annotated[
    list[str] | None,
    typer.Option("--rewrite", help="Function-preserving rewrite; 'none' turns them off."),
]
Calibration = Annotated[
    str | None,
    typer.Option(help="builtin[:domains], a .txt/.json/.jsonl/.parquet, hub:..., or self."),
]
CalibImages = Annotated[
    str | None,
    typer.Option(
        help="For a model that reads images: builtin, none, or a folder of images with captions."
    ),
]
ImatrixFile = Annotated[
    Path | None,
    typer.Option("--imatrix", help="llama.cpp's importance matrix, instead of calibration text."),
]
CalibRows = Annotated[int | None, typer.Option(help="Calibration windows. Default: 64.")]
CalibLength = Annotated[
    int | None, typer.Option(help="Tokens a window. Default: 512, or the model's whole context.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the choice of text. Default: 0.")]
Damp = Annotated[
    float | None, typer.Option(help="GPTQ damping, share of the mean diagonal. Default: 0.01.")
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback", help="Round to nearest where a Hessian is singular."),
]
AllExperts = Annotated[
    bool | None,
    typer.Option(
        "--calibrate-all-experts",
        help="Every expert learns from every token, not only from those that chose it.",
    ),
]
MaxRam = Annotated[
    str | None,
    typer.Option(
        help="Most memory that the run may hold, like 16GiB (a number alone: GiB). Default: no "
        "limit, and 8 GiB of hidden states before they go to disk."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Compute on a Ray cluster: HOST:PORT, auto for the one running here, or local."
    ),
]
Overwrite = Annotated[bool | None, typer.Option("--overwrite", help="Replace outputs.")]
Check = Annotated[bool | None, typer.Option("--check/--no-check", help="Judge what was written.")]
Against = Annotated[
    str | None, typer.Option("--against", help="The original. Default: the bundled one.")
]
MaxKl = Annotated[
    float | None,
    typer.Option(help="Gate: highest mean KL divergence, nats a token.", rich_help_panel=GATES),
]
MinTop1 = Annotated[
    float | None, typer.Option(help="Gate: least top-1 agreement, 0 to 1.", rich_help_panel=GATES)
]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        "--max-ppl-ratio",
        help="Gate: highest perplexity over the original's.",
        rich_help_panel=GATES,
    ),
]
MaxImageKl = Annotated[
    float | None,
    typer.Option(
        help="Gate: highest mean KL divergence of text after images. Default: --max-kl.",
        rich_help_panel=GATES,
    ),
]
MaxKl99 = Annotated[
    float | None,
    typer.Option(
        "--max-kl-p99",
        help="Gate: KL divergence that 99% of the tokens must not exceed.",
        rich_help_panel=GATES,
    ),
]
MaxKl999 = Annotated[
    float | None,
    typer.Option(
        "--max-kl-p999",
        help="Gate: KL divergence that 99.9% of the tokens must not exceed.",
        rich_help_panel=GATES,
    ),
]
MaxFlipped = Annotated[
    float | None,
    typer.Option(
        help="Gate: highest share of top tokens that are other ones: 1 - top-1.",
        rich_help_panel=GATES,
    ),
]
MaxIncrease = Annotated[
    str | None,
    typer.Option(
        "--max-kl-increase",
        help="Gate: highest increase of the mean KL over the baseline's, like 10%.",
        rich_help_panel=GATES,
    ),
]
MinRank = Annotated[
    float | None,
    typer.Option(
        help="Gate of reward models: least rank correlation of the scores, -1 to 1.",
        rich_help_panel=GATES,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        help="Gate: an earlier report.json that must not get worse.", rich_help_panel=GATES
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--eval-data", help="Evaluation text: a file, or (default) the held-out part of builtin."
    ),
]
EvalRows = Annotated[int | None, typer.Option(help="Evaluation windows; 0 = all, at most 64.")]
EvalLength = Annotated[
    int | None, typer.Option(help="Tokens a window. Default: 512, or the model's whole context.")
]
Backend = Annotated[str, typer.Option(help="Engine for GGUF files.")]
Runner = Annotated[str | None, typer.Option(help="Default: native, onnxruntime for ONNX.")]
Reference = Annotated[
    str | None,
    typer.Option(help="Engine for the original, such as transformers. Default: one of ours."),
]
KeysValues = Annotated[
    str | None,
    typer.Option(
        "--kv", help="Keys and values of the native engine or llama.cpp: f32 or f16. Default: f32."
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", help="File for the checks as JUnit XML, one test case a check."),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Folder for report.html and report.json.")
]


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}
