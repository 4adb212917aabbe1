"""Tokens that somebody else has prepared: one ``.npy`` file of ids, mapped where it lies."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collectors.errors import DataError, UsageError
from engine.training.corpus import Corpus, Vocabulary, open_corpus, publish_corpus

if TYPE_CHECKING:
    import numpy.typing as npt

SUFFIX = ".npy"
_AT_ONCE = 1 << 24  # ids that are looked at


def is_token_file(paths: list[str]) -> bool:
    """Whether the data are tokens already.

    Raises:
        UsageError: tokens among other data.
    """
    found = [path for path in paths if path.endswith(SUFFIX)]
    if found and len(paths) > 1:
        raise UsageError(
            "a file of tokens is all of the data",
            where=found[0],
            remedy=f"give one {SUFFIX} file, or text only",
        )
    return bool(found)


def prepare_tokens(path: Path, vocabulary: Vocabulary, directory: Path) -> Corpus:
    """Check the file, and describe it in ``directory``, beside the tokenizer if there is one.

    Raises:
        UsageError: there is no such file.
        DataError: it does not hold token ids of this vocabulary.
        OSError: the disk refused.
    """
    corpus = open_corpus(directory)
    if corpus is not None:
        return corpus
    tokens = map_tokens(path)
    corpus = Corpus(
        directory=directory,
        n_tokens=len(tokens),
        n_documents=_count_ends(tokens, vocabulary, path),
        n_skipped=0,
        n_bytes=tokens.nbytes,
        dtype=str(tokens.dtype),
        mapped=str(path),
        mapped_ns=path.stat().st_mtime_ns,
    )
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=directory.parent))
    try:
        if vocabulary.tokenizer is not None:
            shutil.copyfile(vocabulary.tokenizer, aside / "tokenizer.json")
        description = {k: v for k, v in asdict(corpus).items() if k != "directory"}
        (aside / "corpus.json").write_text(json.dumps(description), encoding="utf-8")
        publish_corpus(aside, directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return corpus


def map_tokens(path: Path) -> npt.NDArray[np.unsignedinteger]:
    """The ids of a file, read where they are used.

    Raises:
        UsageError: there is no such file.
        DataError: it is no NumPy file of one row of unsigned 16 or 32 bit integers.
    """
    remedy = "save it with numpy.save, of one dimension, as uint16 or uint32"
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(
            "no such data", where=str(path), remedy="give a file that exists"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"not a file of tokens: {error}", where=str(path), remedy=remedy) from None
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise DataError(
            f"holds {tokens.dtype} of shape {tokens.shape}, not token ids",
            where=str(path),
            remedy=remedy,
        )
    found: npt.NDArray[np.unsignedinteger] = tokens
    return found


def _count_ends(tokens: npt.NDArray[np.unsignedinteger], vocabulary: Vocabulary, path: Path) -> int:
    """How many documents end in it; every id is looked at once."""
    ends = 0
    for first in range(0, len(tokens), _AT_ONCE):
        some = tokens[first : first + _AT_ONCE]
        if int(some.max()) >= vocabulary.size:
            raise DataError(
                f"holds token {int(some.max())}, the model knows {vocabulary.size}",
                where=str(path),
                remedy="raise model.vocab_size, or give tokens of this model's tokenizer",
            )
        ends += int((some == vocabulary.end).sum())
    return ends
