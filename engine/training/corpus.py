"""Token ids on disk, prepared once for a set of sources and mapped by every rank."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from collectors.errors import DataError, OpsuiteError, StorageError, UsageError
from engine.training.sources import KINDS, count_others, list_sources, read_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt
    from tokenizers import Tokenizer

    from engine.training.config import DataConfig
    from engine.training.sources import Document

_FORMAT = 1
_TOKENIZER_SAMPLE_BYTES = 2_000_000  # merges learned from more text hardly differ at these sizes
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A prepared corpus: ``tokens.bin``, ``tokenizer.json`` and ``corpus.json`` in a directory.

    Attributes:
        directory: where it lies; its name is the key of its sources.
        n_tokens: token ids in all.
        n_documents: documents, each ended by an end-of-text token.
        n_skipped: documents left out because they are not valid text.
        n_bytes: UTF-8 bytes of text.
        dtype: NumPy's name of the ids' type.
        mapped: the ``.npy`` file that takes the place of ``tokens.bin``; "": there is none.
        mapped_ns: when that was last changed.
    """

    directory: Path
    n_tokens: int
    n_documents: int
    n_skipped: int
    n_bytes: int
    dtype: str
    mapped: str = ""
    mapped_ns: int = 0

    @property
    def tokens(self) -> npt.NDArray[np.unsignedinteger]:
        """The ids, mapped read-only."""
        if self.mapped:
            from engine.training.token_file import map_tokens

            return map_tokens(Path(self.mapped))
        return np.memmap(self.directory / "tokens.bin", dtype=self.dtype, mode="r")

    @property
    def tokenizer_json(self) -> str | None:
        """The content of ``tokenizer.json``; None where tokens came without."""
        path = self.directory / "tokenizer.json"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def __str__(self) -> str:
        skipped = f", {self.n_skipped} that are not text left out" if self.n_skipped else ""
        return (
            f"{self.n_documents} documents{skipped}, {self.n_bytes / 1e6:.1f} MB,"
            f" {self.n_tokens} tokens"
        )


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How text becomes tokens.

    Attributes:
        size: tokens at most.
        end: the token that ends a document.
        tokenizer: a ``tokenizer.json``; None: one is learned from the text.
    """

    size: int
    end: int = 0
    tokenizer: Path | None = None


def prepare_corpus(
    config: DataConfig, vocabulary: Vocabulary, cache: Path, narrate: Callable[[str], None]
) -> Corpus:
    """Find the corpus of ``config`` in ``cache``, or build it there.

    It is built aside and renamed, so launches may do this at the same time.

    Raises:
        UsageError: the data does not exist or holds no text.
        DataError: a file of it is malformed.
        StorageError: the cache cannot be written.
    """
    from engine.training.token_file import is_token_file

    if is_token_file(config.paths):
        return _mapped(Path(config.paths[0]).expanduser().absolute(), vocabulary, cache, narrate)
    sources = list_sources(config.paths)
    directory = cache / _key(sources, vocabulary, config.max_bytes)
    corpus = open_corpus(directory)
    if corpus is None:
        narrate(f"corpus: reading {len(sources)} files, at most {config.max_bytes / 1e6:.1f} MB")
        if others := count_others(config.paths):
            narrate(f"corpus: {others} files of other kinds left out (read are {KINDS})")
        try:
            corpus = _build(sources, vocabulary, config.max_bytes, directory)
        except OSError as error:
            raise StorageError.from_os_error(error, "writing the corpus cache") from error
    narrate(f"corpus: {corpus}")
    return corpus


def _mapped(
    path: Path, vocabulary: Vocabulary, cache: Path, narrate: Callable[[str], None]
) -> Corpus:
    from engine.training.token_file import map_tokens, prepare_tokens

    map_tokens(path)
    directory = cache / _key([path], vocabulary, 0)
    try:
        corpus = prepare_tokens(path, vocabulary, directory)
    except OSError as error:
        raise StorageError.from_os_error(error, "writing the corpus cache") from error
    narrate(f"corpus: {corpus}")
    return corpus


def open_corpus(directory: Path) -> Corpus | None:
    """A corpus prepared earlier; None where there is none, or only a damaged one."""
    try:
        description = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        corpus = Corpus(directory=directory, **description)
        if corpus.mapped:
            unchanged = Path(corpus.mapped).stat().st_mtime_ns == corpus.mapped_ns
            return corpus if unchanged and len(corpus.tokens) == corpus.n_tokens else None
        size = (directory / "tokens.bin").stat().st_size
        whole = size == corpus.n_tokens * np.dtype(corpus.dtype).itemsize
        return corpus if whole and (directory / "tokenizer.json").is_file() else None
    except (OSError, ValueError, TypeError, OpsuiteError):
        return None


def _key(sources: list[Path], vocabulary: Vocabulary, max_bytes: int) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {vocabulary.size} {max_bytes}\n".encode())
    if vocabulary.tokenizer is not None:
        digest.update(f"{vocabulary.end}\n".encode() + _read_tokenizer(vocabulary.tokenizer))
    for source in sources:
        status = source.stat()
        digest.update(f"{source} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read_tokenizer(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the model's tokenizer is unreadable: {error.strerror}",
            where=str(path),
            remedy="put the model's tokenizer.json beside its weights",
        ) from None


def _tokenizer(vocabulary: Vocabulary, sample: Iterable[str]) -> Tokenizer:
    from engine.models.tokenizer import load_tokenizer, train_tokenizer

    if vocabulary.tokenizer is None:
        return train_tokenizer(sample, vocabulary.size)
    tokenizer = load_tokenizer(vocabulary.tokenizer)
    if tokenizer.get_vocab_size() > vocabulary.size:
        raise DataError(
            f"the tokenizer knows {tokenizer.get_vocab_size()} tokens, the model {vocabulary.size}",
            where=str(vocabulary.tokenizer),
            remedy="give a tokenizer that belongs to the model",
        )
    return tokenizer


def _build(sources: list[Path], vocabulary: Vocabulary, max_bytes: int, directory: Path) -> Corpus:
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=directory.parent))
    try:
        sample = _TextReader(sources, min(max_bytes, _TOKENIZER_SAMPLE_BYTES))
        tokenizer = _tokenizer(vocabulary, sample)
        reader = _TextReader(sources, max_bytes)
        dtype = "uint16" if vocabulary.size <= 1 << 16 else "uint32"
        tokenizer.encode_special_tokens = True  # text that spells an end is text
        with (aside / "tokens.bin").open("wb") as out:
            n_tokens = sum(
                _write(out, ids, dtype) for ids in _encode(tokenizer, reader, vocabulary.end)
            )
        if not n_tokens:
            raise UsageError(
                "the data holds no text",
                where=f"{len(sources)} files, {reader.n_skipped} documents that are not text",
                remedy="give --data files with text",
            )
        (aside / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        corpus = Corpus(
            directory=directory,
            n_tokens=n_tokens,
            n_documents=reader.n_documents,
            n_skipped=reader.n_skipped,
            n_bytes=reader.n_bytes,
            dtype=dtype,
        )
        description = {k: v for k, v in asdict(corpus).items() if k != "directory"}
        (aside / "corpus.json").write_text(json.dumps(description), encoding="utf-8")
        publish_corpus(aside, directory)
        return corpus
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def publish_corpus(aside: Path, directory: Path) -> None:
    """Give what was built aside its name."""
    try:
        aside.rename(directory)
    except OSError:
        if open_corpus(directory) is None:  # else another launch was first, with the same content
            shutil.rmtree(directory)
            aside.rename(directory)


class _TextReader:
    """Texts up to a number of bytes, counting what it gave and what it left out."""

    def __init__(self, sources: Iterable[Path], max_bytes: int) -> None:
        self._sources = sources
        self._max_bytes = max_bytes
        self.n_documents = self.n_skipped = self.n_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents():
            data = _utf8(document.text)
            if data is None:
                self.n_skipped += 1
            elif data:
                data = data[: self._max_bytes - self.n_bytes]
                self.n_documents += 1
                self.n_bytes += len(data)
                yield data.decode("utf-8", errors="ignore")  # the cut may split a character
            if self.n_bytes >= self._max_bytes:
                return

    def _documents(self) -> Iterator[Document]:
        for source in self._sources:
            yield from read_documents(source)


def _utf8(text: str | None) -> bytes | None:
    try:
        return text.encode() if text is not None else None
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return None


def _encode(tokenizer: Tokenizer, texts: Iterable[str], end: int) -> Iterator[list[int]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield _ids(tokenizer, batch, end)
            batch, size = [], 0
    if batch:
        yield _ids(tokenizer, batch, end)


def _ids(tokenizer: Tokenizer, batch: list[str], end: int) -> list[int]:
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
        ids += encoding.ids
        ids.append(end)
    return ids


def _write(out: BinaryIO, ids: list[int], dtype: str) -> int:
    # Not tofile: where the disk is full, its error does not say so.
    out.write(np.asarray(ids, dtype=dtype).data)
    return len(ids)
