"""Commands that run a file: `generate`, `score` and `bench`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from quantize.cli import options
from quantize.cli.bar import Bar
from quantize.cli.screen import errors, show_result


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
    top_p: Annotated[
        float, typer.Option(help="Smallest set of tokens with this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image file, repeatable: at <|image_pad|>, or before the prompt."),
    ] = None,
    tower: Annotated[
        str | None,
        typer.Option(help="Checkpoint whose vision tower reads images. Default: FILE."),
    ] = None,
    backend: options.Runner = None,
    as_json: options.Json = False,
) -> None:
    """Stream text from a model."""
    from quantize import loading
    from runtime.generate import generate_text
    from runtime.sample import Sampler

    if image or tower is not None:
        from quantize.seeing import check_image_flags, image_prompt
        from runtime.vision.seeing import own_tower

        check_image_flags(image or (), file, tower, backend)
    engine = loading.open_any(file, backend, purpose="generation")
    seen = None
    if image:
        own = own_tower(engine) is not None
        seen = image_prompt(image, file, tower, engine.tokenizer, own)
        engine, prompt = seen.engine(engine), seen.placed(prompt)
        if seen.note:
            errors.print(seen.note, soft_wrap=True)
    if chat:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        prompt = loading.render(engine, messages)
    text = seen.with_room(prompt) if seen else prompt
    sampler = Sampler(temperature, top_k, top_p, seed)
    pieces = generate_text(engine, text, count, sampler, tuple(stop or ()))
    if as_json:
        typer.echo(json.dumps({"prompt": prompt, "text": "".join(pieces)}, ensure_ascii=False))
        return
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def score(
    file: Annotated[Path, typer.Argument(help="An ONNX folder or a checkpoint folder.")],
    text: Annotated[list[str] | None, typer.Option(help="Text to score, repeatable.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--file", help="Texts or conversations: .txt, .json, .jsonl or .parquet."),
    ] = None,
    backend: options.Runner = None,
    as_json: options.Json = False,
) -> None:
    """What a reward model or classifier makes of texts: a score each, or one for each step."""
    from quantize import loading, scoring

    engine = loading.open_any(file, backend, purpose="judging")
    given = list(text or ())
    if texts is not None:
        given += scoring.texts_in(texts, engine.tokenizer)
    found = scoring.score_texts(engine, given)
    show_result(scoring.as_json(found), scoring.table(found), as_json)


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
    as_json: options.Json = False,
) -> None:
    """How fast a file runs here: prompt, generation, loading, memory, and what limits it."""
    from quantize.bench import show as shown
    from quantize.bench import speed

    used = speed.usable_cores() if threads is None else threads
    asked = speed.BenchRequest(file, used, against, prompt, generate_, context, repeat, chart)
    with Bar(errors) as bar:
        result = speed.measure(asked, bar.update)
    if chart is not None:
        shown.write(result, chart)
    show_result(result.to_json(), shown.table(result), as_json)
