"""Foreign text in our sentences: one sentence, whole words, short."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.common.foreign_text import first_sentence, shortened

WORDS = st.lists(st.text(string.ascii_letters + string.digits + "/._-", min_size=1, max_size=12), max_size=60)


@given(words=WORDS, longest=st.integers(14, 80))
def test_a_cut_falls_between_words_and_is_marked(words, longest):
    text = " ".join(words)
    short = shortened(text, longest)
    assert len(short) <= longest
    kept = short.split(" ")
    assert kept == words[: len(kept)] or not words or (kept[-1] == "…" and kept[:-1] == words[: len(kept) - 1])
    assert (short == text) == (len(text) <= longest)


def test_one_long_word_is_cut_with_a_mark():
    assert shortened("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("No such thing. Try another.", "No such thing"),
        ("[Errno 2] no file 'a. b'\nand a line more", "[Errno 2] no file 'a. b'"),
        ("  over 3.5 MB, e.g. a photo.  ", "over 3.5 MB, e.g. a photo"),
        ("", "ValueError"),
    ],
)
def test_the_first_sentence_of_an_error(text, first):
    assert first_sentence(ValueError(text)) == first
