"""What real checkpoints have: the artifact is what transformers computes, or is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import edgequant
from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from quantize.report.torture import TORTURE
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.tokenizer import Tokenizer
from tests.interop.vocabulary import tokenize
from tests.traits import TRAITS, Trait

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

KL = {"gguf": 1e-4, "onnx": 1e-7}
"""llama.cpp keeps keys and values as float16."""

TARGETS = {"gguf": "gguf:F32", "onnx": "onnx:fp32"}


TEXTS = ("Hello", " two words", "", "a <|im_end|>b </s> c")


def transformers_ids(folder: Path) -> list[list[int]]:
    """Ids of TEXTS with what is put around them, by transformers."""
    found = transformers.AutoTokenizer.from_pretrained(folder)
    return [found(text).input_ids for text in TEXTS]


def own_ids(folder: Path) -> list[list[int]]:
    """The same by the tokenizer.json of a folder."""
    found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [found.encode(text).ids for text in TEXTS]


def full_ids(artifact: Path) -> list[list[int]]:
    """The same by llama.cpp of a GGUF file, and as we read an ONNX folder."""
    if artifact.is_file():
        engine = open_engine(artifact, "llamacpp")
        return [tokenize(engine, text, add_special=True) for text in TEXTS]
    found = Tokenizer.from_folder(artifact)
    return [[*found.prefix, *found.encode(text), *found.suffix] for text in TEXTS]


@pytest.mark.parametrize("container", TARGETS)
@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: trait.name)
def test_a_trait_is_kept_or_refused(trait: Trait, container: str, tmp_path: Path) -> None:
    folder = trait.make(tmp_path / "model")
    sentence = getattr(trait, container)
    settings: dict[str, Any] = {"output": tmp_path / "out", "method": "rtn", "check": False}
    if sentence:
        with pytest.raises(EdgequantError, match=re.escape(sentence)) as caught:
            edgequant.quantize(folder, TARGETS[container], **settings)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out/*"))
        return
    made = edgequant.quantize(folder, TARGETS[container], **settings).artifacts[0]
    notes = " ".join(open_checkpoint(folder).notes)
    assert trait.told in notes
    assert full_ids(made.path) == (own_ids if trait.told else transformers_ids)(folder)
    if trait.told:
        assert own_ids(folder) != transformers_ids(folder)
        return
    found = edgequant.check(
        made.path, folder, backend="llamacpp", reference="transformers", eval_rows=3, eval_length=96
    )
    result = found.results[0]
    assert result.metrics.kl < KL[container], result.metrics
    assert not [note for note in result.notes if "end tokens" in note or "template" in note]
    if container == "onnx":
        check_genai(made.path, folder, trait)


def check_genai(path: Path, folder: Path, trait: Trait) -> None:
    """onnxruntime-genai gives transformers' ids, or the artifact has the note that it does not."""
    genai, transformers = map(pytest.importorskip, ("onnxruntime_genai", "transformers"))
    notes = json.loads(CONTAINERS["onnx"].provenance(path).get("reader_notes", "[]"))
    assert bool(notes) == bool(trait.genai)
    assert trait.genai in " ".join(notes)
    if trait.tokenizer == "word pieces":
        return  # opening it may end the process
    theirs = genai.Tokenizer(genai.Model(str(path)))
    original = transformers.AutoTokenizer.from_pretrained(folder)
    added = [token.content for token in original.added_tokens_decoder.values()]
    texts = [*TORTURE[1:], *(form.format(each) for each in added for form in ("a{}b", "a {} b"))]
    for special in (False, True):
        told = [note for note in notes if special or "before a text by itself" not in note]
        wanted = [original(text, add_special_tokens=special)["input_ids"] for text in texts]
        assert ([list(theirs.encode(text)) for text in texts] != wanted) == bool(told), notes
