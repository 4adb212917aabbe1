"""Text comes out whole: the pieces add up, no half characters, stop strings wherever they lie."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

tokenizers = pytest.importorskip("tokenizers", reason="needs the engine extra")

from collectors.errors import DataError  # noqa: E402
from engine.models.tokenizer import train_tokenizer  # noqa: E402
from engine.serving.api.detokenizer import Detokenizer, Vocabulary  # noqa: E402
from engine.serving.api.stop_strings import StopStrings  # noqa: E402

TOKENIZER = train_tokenizer(["naïve café 你好世界 здравствуй 🙂🚀 x = [1, 2]"] * 3, 300)
VOCABULARY = Vocabulary(TOKENIZER)


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40))
def test_pieces_add_up_to_the_decoding_of_everything_at_once(tokens: list[int]) -> None:
    detokenizer = Detokenizer(VOCABULARY)
    pieces = [detokenizer.push(token) for token in tokens] + [detokenizer.finish()]
    expected = TOKENIZER.decode(tokens)
    assert "".join(pieces) == expected
    assert VOCABULARY.text_of(tokens) == expected


@given(st.text(max_size=20))
def test_a_character_is_never_shown_in_part(text: str) -> None:
    detokenizer = Detokenizer(VOCABULARY)
    shown = ""
    for token in TOKENIZER.encode(text).ids:
        shown += detokenizer.push(token)
        assert text.startswith(shown)
    assert shown == text


def test_added_tokens_show_their_text_and_special_ones_nothing() -> None:
    tokenizer = train_tokenizer(["some text"], 270)
    tokenizer.add_tokens(["<plain ü>"])
    tokenizer.add_special_tokens(["<|hidden|>"])
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.get_vocab()
    assert vocabulary.text_of([ids["<plain ü>"]]) == "<plain ü>"
    assert vocabulary.text_of([ids["<|hidden|>"], 0, 10**6]) == ""


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(DataError, match="not byte-level"):
        Vocabulary(tokenizer)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    st.sets(st.integers(0, 30)),
)
def test_stop_strings_end_the_text_wherever_tokens_begin(
    text: str, strings: list[str], cuts: set[int]
) -> None:
    stops = StopStrings(strings)
    out = ""
    for start, end in pairwise([0, *sorted(cuts | {len(text)})]):
        out += stops.push(text[start:end])
        if stops.found:
            break
    ends = [(text.find(s) + len(s), text.find(s)) for s in strings if s in text]
    if ends:
        assert stops.found
        assert out == text[: min(ends)[1]]
    else:
        assert not stops.found
        assert out + stops.finish() == text
