"""Commands that hold files against their original: `check`, `compare` and `attest`."""

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli import options
from quantize.cli.bar import Bar
from quantize.cli.screen import errors, finish_report, show_result


def check(
    file: Annotated[Path, typer.Argument(help="A .gguf file or an ONNX folder.")],
    against: options.Against = None,
    adapter: options.Adapter = None,
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
    backend: options.Backend = "native",
    reference: options.Reference = None,
    kv: options.KeysValues = None,
    report: options.Report = None,
    junit: options.Junit = None,
    as_json: options.Json = False,
) -> None:
    """Measure a file against its original; when a gate fails exit 1 and name it FILE.rejected."""
    from quantize.report import for_ci, judge

    if junit is not None:
        for_ci.check_path(junit)

    flags = options.given(
        adapter=adapter or None, max_kl=max_kl, max_kl_p99=max_kl_p99, max_kl_p999=max_kl_p999,
        min_top1=min_top1, max_flipped=max_flipped, max_ppl_ratio=max_ppl_ratio,
        max_image_kl=max_image_kl, min_rank=min_rank, baseline=baseline,
        max_kl_increase=max_kl_increase, eval_data=eval_data, eval_rows=eval_rows,
        eval_length=eval_length, reference=reference, kv=kv,
    )  # fmt: skip
    with Bar(errors) as bar:
        result = judge.check_files([file], against, report, backend, flags, bar.update, reject=True)
    finish_report(result, as_json, file.parent, junit=junit)


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
    finish_report(result, as_json, Path(), comparison.table)


def attest(
    file: Annotated[Path, typer.Argument(help="A .gguf file or a folder that this program wrote.")],
    against: options.Against = None,
    adapter: options.Adapter = None,
    calibration: options.Calibration = None,
    calib_images: options.CalibImages = None,
    imatrix: options.ImatrixFile = None,
    as_json: options.Json = False,
) -> None:
    """Make a file again by the recipe in it, and compare byte by byte. Exit 1 where they differ."""
    from quantize import attestation

    given = options.given(
        adapter=adapter or None, calibration=calibration, calib_images=calib_images, imatrix=imatrix
    )  # fmt: skip
    with Bar(errors) as bar:
        result = attestation.attest(file, against, given, bar.update)
    show_result(result, attestation.render(result), as_json)
    if result["differences"]:
        raise typer.Exit(1)
