"""Text, JSONL and Parquet become the same tokens; what is not data is said where it lies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest

from collectors.errors import DataError, UsageError
from engine.training.config import DataConfig
from engine.training.corpus import Corpus, Vocabulary, open_corpus, prepare_corpus
from engine.training.sources import list_sources

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tokenizers", reason="needs the engine extra")

TEXTS = ["def first():\n    return 1\n", "Größe: 5 ± 2 €\n", "x = 'it''s'\n"]


def prepare(path: Path, cache: Path, max_bytes: int = 10_000) -> Corpus:
    config = DataConfig(paths=[str(path)], max_bytes=max_bytes)
    return prepare_corpus(config, Vocabulary(size=300), cache, lambda _: None)


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")


def write_parquet(path: Path, column: str) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT unnest(?) AS {column}", [TEXTS])
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")


def test_every_kind_of_file_gives_the_same_tokens(tmp_path: Path) -> None:
    from engine.models.tokenizer import load_tokenizer

    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name, text in zip(("a.txt", "b.py", "deeper/c.md"), TEXTS, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    write_jsonl(tmp_path / "rows.jsonl", TEXTS)
    write_parquet(tmp_path / "rows.parquet", "text")
    corpora = [
        prepare(tmp_path / name, tmp_path / "cache")
        for name in ("folder", "rows.jsonl", "rows.parquet")
    ]
    first = corpora[0].tokens.tolist()
    assert all(corpus.tokens.tolist() == first for corpus in corpora)
    tokenizer = load_tokenizer(corpora[0].directory / "tokenizer.json")
    assert tokenizer.decode(first, skip_special_tokens=False) == "".join(
        text + "<|endoftext|>" for text in TEXTS
    )
    assert corpora[0].n_documents == len(TEXTS)


def test_prepared_once_and_again_when_the_text_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two " * 50, encoding="utf-8")
    first = prepare(path, tmp_path / "cache")
    written = (first.directory / "tokens.bin").stat().st_mtime_ns
    assert prepare(path, tmp_path / "cache") == first
    assert (first.directory / "tokens.bin").stat().st_mtime_ns == written
    path.write_text("one two three " * 50, encoding="utf-8")
    assert prepare(path, tmp_path / "cache").directory != first.directory
    assert not list((tmp_path / "cache").glob(".building-*"))


def test_a_damaged_cache_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two " * 50, encoding="utf-8")
    first = prepare(path, tmp_path / "cache")
    whole = first.tokens.tolist()
    (first.directory / "tokens.bin").write_bytes(b"\0")
    assert open_corpus(first.directory) is None
    assert prepare(path, tmp_path / "cache").tokens.tolist() == whole


def test_what_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "half a pair: \\ud800"}\n', encoding="utf-8")
    corpus = prepare(tmp_path, tmp_path / "cache")
    assert (corpus.n_documents, corpus.n_skipped) == (1, 2)


def test_the_limit_holds_and_may_cut_a_character(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("€" * 1000, encoding="utf-8")
    corpus = prepare(path, tmp_path / "cache", max_bytes=1000)
    assert corpus.n_bytes == 1000
    assert np.count_nonzero(corpus.tokens) > 0


def test_bad_data_is_said_where_it_lies(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r'"text"') as no_text:
        prepare(bad, tmp_path / "cache")
    assert f"{bad}:2" in str(no_text.value)
    bad.write_text('{"text": "fine"}\n\n{"text": \n', encoding="utf-8")
    with pytest.raises(DataError) as no_json:
        prepare(bad, tmp_path / "cache")
    assert f"{bad}:3" in str(no_json.value)
    write_parquet(tmp_path / "other.parquet", "content")
    with pytest.raises(DataError, match='no column "text"'):
        prepare(tmp_path / "other.parquet", tmp_path / "cache")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        prepare(tmp_path / "no.parquet", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data"):
        list_sources([str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="no data in the directory"):
        list_sources([str(tmp_path)])
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(UsageError, match="unknown kind of data"):
        list_sources([str(tmp_path / "picture.png")])
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no text"):
        prepare(tmp_path / "empty.txt", tmp_path / "cache")


def test_the_standard_library_is_there_without_its_tests() -> None:
    sources = list_sources([])
    assert len(sources) > 300
    assert not any({"test", "site-packages", "__pycache__"} & set(p.parts) for p in sources)


def test_tokens_are_mapped_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    tokens = np.random.default_rng(0).integers(0, 300, 5000).astype(np.uint16)
    np.save(path, tokens)
    corpus = prepare(path, tmp_path / "cache")
    assert np.array_equal(corpus.tokens, tokens)
    assert corpus.n_documents == (tokens == 0).sum()
    assert corpus.tokenizer_json is None
    assert not any((tmp_path / "cache").rglob("tokens.bin"))
    again = open_corpus(corpus.directory)
    assert again == corpus
    for other in (tokens[:-1], tokens + 1):  # another file now: what was said of it holds no more
        np.save(path, other)
        assert open_corpus(corpus.directory) is None


def test_text_that_spells_an_end_is_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello <|endoftext|> world " * 200)
    corpus = prepare(tmp_path / "text.txt", tmp_path / "cache")
    assert (corpus.tokens == 0).sum() == corpus.n_documents == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.array([1, 2, 300], dtype=np.uint16), "token 300, the model knows 300"),
        (np.array([[1, 2]], dtype=np.uint16), "shape"),
        (np.array([1.0, 2.0]), "float64"),
        (np.array([{"a": 1}], dtype=object), "not a file of tokens"),
    ],
    ids=["too large", "a table", "fractions", "pickled"],
)
def test_what_are_no_tokens_is_refused(tmp_path: Path, content: object, says: str) -> None:
    np.save(tmp_path / "tokens.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=says):
        prepare(tmp_path / "tokens.npy", tmp_path / "cache")


def test_tokens_do_not_mix_with_text(tmp_path: Path) -> None:
    config = DataConfig(paths=[str(tmp_path / "a.npy"), str(tmp_path)])
    with pytest.raises(UsageError, match="all of the data"):
        prepare_corpus(config, Vocabulary(size=300), tmp_path / "cache", lambda _: None)
