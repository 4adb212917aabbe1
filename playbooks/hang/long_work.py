"""Stacks of what may take minutes without anything being wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbooks.hang.observation import Frame, RankStack

COMPILES = "compiles"
SAVES = "saves a checkpoint"
LOADS = "loads a model or prepares data"
ASKS = "waits for its user"

# Frames of torch/_dynamo are on every stack below a compiled function; these only while it is made.
_COMPILER_FILES = re.compile(
    r"torch/(_dynamo/(convert_frame|symbolic_convert|output_graph|bytecode_transformation)"
    r"|_inductor/(compile_fx|async_compile|scheduler|graph|codegen/|cpp_builder)"
    r"|utils/cpp_extension|_export/|export/)|triton/(compiler|backends)/"
)
_COMPILERS = re.compile(r"\b(cc1plus|g\+\+|c\+\+|gcc|clang\S*|nvcc|ptxas|cicc|ninja|ld|hipcc)\b")
_SAVING_FILES = re.compile(r"torch/(serialization\.py|distributed/checkpoint/)|safetensors/")
_ACTIVATIONS = re.compile(
    r"torch/utils/checkpoint\.py|checkpoint_wrapper\.py|/activation_checkpoint"
)
_SAVING = re.compile(
    r"^_*(save|saving|checkpoint|ckpt|(write|dump)_checkpoint)(_|$)|_save$|^save[a-z]"
)
_NOT_SAVING = re.compile(r"maybe|log|gradient|wrapper|should|restore|resume|load|sequential")
_LOADING = re.compile(
    r"from_pretrained|load_state_dict|load_checkpoint|tokeniz|load_dataset|download"
)
_LOADING_FILES = re.compile(r"/(tokenizers|datasets|huggingface_hub)/")
_NOT_COMPILING = {"run", "<module>"}  # what is compiled already; the import of the compiler
_PROMPT = re.compile(r"/lib/python3[^/]*/(pdb|bdb|code)\.py$|/ipdb/")
_NEAR = 8


def long_work_of(frames: Sequence[Frame], children: Sequence[RankStack] = ()) -> str:
    """What a stack shows a rank to do that takes long; "" where it is nothing of this kind."""
    if _asks(frames):
        return ASKS
    if any(
        _COMPILER_FILES.search(frame.file) and frame.function not in _NOT_COMPILING
        for frame in frames
    ):
        return COMPILES
    if any(_COMPILERS.search(child.child) for child in children):
        return COMPILES
    if any(_saves(frame) for frame in frames):
        return SAVES
    if any(
        _LOADING.search(frame.function) or _LOADING_FILES.search(frame.file) for frame in frames
    ):
        return LOADS
    return ""


def _asks(frames: Sequence[Frame]) -> bool:
    """Whether it is at a debugger's prompt, or a notebook between two cells."""
    if any(_PROMPT.search(frame.file) for frame in frames[:_NEAR]):
        return True
    idle = bool(frames) and frames[0].file.endswith("/selectors.py")
    in_kernel = any("/ipykernel/" in frame.file for frame in frames)
    return idle and in_kernel and not any("/ipykernel_" in frame.file for frame in frames)


def _saves(frame: Frame) -> bool:
    """Not what recomputes activations, which is called checkpointing too."""
    if _ACTIVATIONS.search(frame.file):
        return False
    if _SAVING_FILES.search(frame.file):
        return True
    name = frame.function.rpartition(".")[2].lower()
    return bool(_SAVING.search(name)) and not _NOT_SAVING.search(name)
