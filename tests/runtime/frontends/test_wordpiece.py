"""WordPiece against the library `tokenizers`, on text of every kind."""

from __future__ import annotations

import random
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime.frontends.wordpiece import SPECIAL, WordPiece

WORDS = (
    "the", "un", "##happi", "##ness", "happy", "ca", "##f", "##fe", "caf\u00e9", "na\u00efve",
    "Caf\u00e9", "The", "\u6211", "\u9ad8", "\u5174", "\u03c3", "##\u03c3", "\u0438", "##\u0439",
    "\u00df", "ss", "\u0264", "\u019b", "i\u0307", "\U0001f600", "##\U0001f600", "\u1112",
    "##\u1161", "[", "]", "cls", "sep", "CLS",
)  # fmt: skip
ASCII = [chr(code) for code in range(33, 127)]
VOCABULARY = {
    piece: number
    for number, piece in enumerate(
        dict.fromkeys((*SPECIAL, *ASCII, *(f"##{c}" for c in ASCII if c.isalnum()), *WORDS))
    )
}
CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def theirs(*, lower_case: bool, longest: int = 512) -> Any:
    """BERT's tokeniser of `tokenizers`, with the vocabulary of these tests."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from tokenizers import models, normalizers, pre_tokenizers, processors

    made = tokenizers.Tokenizer(
        models.WordPiece(VOCABULARY, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.BertProcessing(
        ("[SEP]", VOCABULARY["[SEP]"]), ("[CLS]", VOCABULARY["[CLS]"])
    )
    made.enable_truncation(longest)
    return made


def differing(texts: list[str], *, lower_case: bool, longest: int = 512) -> list[str]:
    """Texts that become other numbers here than there."""
    wanted = theirs(lower_case=lower_case, longest=longest).encode_batch(texts)
    ours = WordPiece(VOCABULARY, lower_case=lower_case)
    return [
        text
        for text, encoding in zip(texts, wanted, strict=True)
        if ours.encode(text, longest)[0] != encoding.ids
    ]


def mixed(count: int) -> list[str]:
    """Texts of words, characters of every category, special tokens and words of great length."""
    chance = random.Random(20)
    by_category: dict[str, list[str]] = {}
    for character in CHARACTERS:
        by_category.setdefault(unicodedata.category(character), []).append(character)
    categories = [of for name, of in by_category.items() if name != "Cn"]
    pieces = [piece.removeprefix("##") for piece in VOCABULARY]
    rare = [*SPECIAL, "[cls]", "[ SEP]", "\U0001f468\u200d\U0001f469", "e\u0301", "\u1e9b\u0323"]

    def part() -> str:
        kind = chance.randrange(10)
        if kind < 4:
            return chance.choice(pieces)
        if kind < 7:
            return chance.choice(chance.choice(categories))
        if kind < 9:
            return chance.choice((" ", " ", "\t", "\u00a0", "\u3000", "\r\n"))
        return chance.choice((chance.choice(rare), "x" * chance.randrange(97, 104)))

    return ["".join(part() for _ in range(chance.randrange(30))) for _ in range(count)]


@pytest.mark.parametrize("lower_case", [True, False])
def test_ten_thousand_strings_become_the_numbers_of_tokenizers(lower_case: bool) -> None:
    assert differing(mixed(10_000), lower_case=lower_case) == []


@pytest.mark.parametrize("lower_case", [True, False])
def test_every_character_that_is_no_plain_letter_counts_as_in_tokenizers(lower_case: bool) -> None:
    chosen = [
        c
        for c in CHARACTERS
        if unicodedata.category(c) not in ("Lo", "Cn", "Co") or unicodedata.normalize("NFD", c) != c
    ]
    assert len(chosen) > 20_000
    edges = (0x3400, 0x4DC0, 0x4E00, 0xA000, 0xF900, 0xFB00, 0x20000, 0x2A6E0, 0x2A700, 0x2B820,
             0x2B920, 0x2CEB0, 0x2F800, 0x2FA20)  # fmt: skip
    chosen += [chr(edge + step) for edge in edges for step in (-1, 0)]  # of ideographs
    texts = [f"a{c}b {c} {c}{c}" for c in chosen]
    assert [f"{ord(t[1]):x}" for t in differing(texts, lower_case=lower_case)] == []


def test_text_is_cut_where_tokenizers_cuts_it() -> None:
    texts = [*mixed(500), "the " * 13, "the " * 14, "the " * 15, "unhappiness " * 5, ""]
    assert differing(texts, lower_case=True, longest=16) == []


def test_a_text_is_told_to_be_cut_only_where_pieces_are_left_out() -> None:
    ours = WordPiece(VOCABULARY, lower_case=True)
    assert ours.encode("the " * 14, 16)[1] is False
    numbers, cut = ours.encode("the " * 15, 16)
    assert (len(numbers), cut) == (16, True)
    assert len(ours.encode("unhappiness " * 10_000, 16)[0]) == 16


def test_pieces_are_the_longest_that_fit() -> None:
    ours = WordPiece(VOCABULARY, lower_case=True)
    numbers, _ = ours.encode("UNHAPPINESS", 512)
    assert numbers[1:-1] == [VOCABULARY[p] for p in ("un", "##happi", "##ness")]
    assert ours.encode("un\u05d0", 512)[0][1:-1] == [VOCABULARY["[UNK]"]]


@given(st.text(max_size=60), st.integers(3, 20), st.booleans())
def test_any_text_begins_ends_and_is_of_no_more_pieces_than_asked(
    text: str, longest: int, lower_case: bool
) -> None:
    ours = WordPiece(VOCABULARY, lower_case=lower_case)
    every, left_out = ours.encode(text, 10_000)
    numbers, cut = ours.encode(text, longest)
    assert left_out is False
    assert cut == (len(every) > longest)
    assert len(numbers) == min(len(every), longest)
    assert (numbers[0], numbers[-1]) == (VOCABULARY["[CLS]"], VOCABULARY["[SEP]"])
    assert numbers[:-1] == every[: len(numbers) - 1]
