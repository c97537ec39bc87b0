"""Commands that hold files against their original: `check` and `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli import options
from quantize.cli.bar import Bar
from quantize.cli.screen import errors, finish_report


def check(
    file: Annotated[Path, typer.Argument(help="A .gguf file or an ONNX folder.")],
    against: options.Against = None,
    adapter: options.Adapter = None,
    max_kl: options.MaxKl = None,
    min_top1: options.MinTop1 = None,
    max_ppl_ratio: options.MaxRatio = None,
    max_image_kl: options.MaxImageKl = None,
    min_rank: options.MinRank = None,
    baseline: options.Baseline = None,
    eval_data: options.EvalData = None,
    eval_rows: options.EvalRows = None,
    eval_length: options.EvalLength = None,
    backend: options.Backend = "native",
    reference: options.Reference = None,
    kv: options.KeysValues = None,
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Measure a file against its original; when a gate fails exit 1 and name it FILE.rejected."""
    from quantize.report import judge

    flags = options.given(
        adapter=adapter or None, max_kl=max_kl, min_top1=min_top1, max_ppl_ratio=max_ppl_ratio,
        max_image_kl=max_image_kl, min_rank=min_rank, baseline=baseline, eval_data=eval_data,
        eval_rows=eval_rows, eval_length=eval_length, reference=reference, kv=kv,
    )  # fmt: skip
    with Bar(errors) as bar:
        result = judge.check_files([file], against, report, backend, flags, bar.update, reject=True)
    finish_report(result, as_json)


def compare(
    files: Annotated[list[Path], typer.Argument(help="Artifacts of one model, ours or foreign.")],
    against: options.Against = None,
    adapter: options.Adapter = None,
    eval_data: options.EvalData = None,
    eval_rows: options.EvalRows = None,
    eval_length: options.EvalLength = None,
    backend: options.Backend = "native",
    reference: options.Reference = None,
    kv: options.KeysValues = None,
    report: options.Report = None,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", help="File for the chart of bytes against KL: .svg or .png."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Several artifacts on the same text: bytes against KL, and which of them beats which."""
    from quantize.report import comparison

    flags = options.given(
        adapter=adapter or None, eval_data=eval_data, eval_rows=eval_rows, eval_length=eval_length,
        reference=reference, kv=kv,
    )  # fmt: skip
    with Bar(errors) as bar:
        result = comparison.compare_files(files, against, report, chart, backend, flags, bar.update)
    finish_report(result, as_json, comparison.table)
