"""Sessions of onnxruntime on the CPU, whose failures are sentences."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError

EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Setting of a session: where a graph that is given as bytes has its weights."""


def open_session(
    path: Path, threads: int | None, accuracy_level: int | None, optimize: bool = True
) -> Any:
    """A session on the CPU; `accuracy_level` overrides what the file says.

    Without `optimize` the graph is run as it is written, ORT_DISABLE_ALL.
    Raises EdgequantError when onnxruntime is not installed or cannot load the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UnsupportedError(
            "running an ONNX file needs onnxruntime; pip install onnxruntime."
        ) from None
    if not path.exists():
        raise CorruptFileError(f"{path} is missing; copy it into the folder again.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure comes back as our own sentence
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        model: str | bytes = str(path)
        if accuracy_level is not None or any(file.is_symlink() for file in path.parent.iterdir()):
            model, folder = _edited(path, accuracy_level)
            options.add_session_config_entry(EXTERNAL_DATA_FOLDER, folder)
        return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as error:  # the library's own exceptions share no base class of their own
        reason = " ".join(str(error).split())
        raise CorruptFileError(
            f"onnxruntime cannot load {path}: {reason}; copy it again or update onnxruntime."
        ) from error


def _edited(path: Path, accuracy_level: int | None) -> tuple[bytes, str]:
    """The graph with another accuracy_level on every MatMulNBits, and where its weights lie.

    onnxruntime reads weights from below one folder, all links resolved. In a hub's cache the files
    are links to files of other names in another folder: the graph then names these.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and accuracy_level is not None:
            kept = [a for a in node.attribute if a.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(onnx.helper.make_attribute("accuracy_level", accuracy_level))
    places = [
        entry
        for proto in model.graph.initializer
        for entry in proto.external_data
        # a name that leads out of the folder is onnxruntime's to refuse
        if entry.key == "location" and Path(entry.value).name == entry.value
    ]
    real = {entry.value: (path.parent / entry.value).resolve() for entry in places}
    folders = [str(file.parent) for file in real.values()]
    folder = os.path.commonpath(folders) if folders else str(path.parent)
    for entry in places:
        entry.value = real[entry.value].relative_to(folder).as_posix()
    return bytes(model.SerializeToString()), folder


def computes_operands(path: Path) -> bool:
    """Whether a product of packed weights reads scales or zero points that other nodes compute.

    Constants only once the optimizer folded those nodes.
    """
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf's own: a file in onnxruntime's format, optimized when it was made
        return False
    stored = {proto.name for proto in graph.initializer}
    products = (node for node in graph.node if node.op_type == "MatMulNBits")
    return any(name and name not in stored for node in products for name in node.input[2:4])


def run(session: Any, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs. Raises UnsupportedError with what onnxruntime says."""
    try:
        return list(session.run(outputs, feed))
    except Exception as error:  # the library's own exceptions share no base class of their own
        raise UnsupportedError(
            f"onnxruntime cannot run the model: {' '.join(str(error).split())}; compare its "
            "inputs with config.json and genai_config.json."
        ) from error
