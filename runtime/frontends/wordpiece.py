"""WordPiece: BERT's way from text to the numbers of pieces, as the library `tokenizers` goes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

BEGIN, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
SPECIAL = (BEGIN, END, UNKNOWN, "[MASK]", "[PAD]")
"""Pieces that stand for themselves where they stand in a text."""
_CONTINUED = "##"
_LONGEST_WORD = 100
"""Characters of a word; a longer one is unknown."""
_KEPT_WORDS = 20_000
"""Words whose pieces are kept; then they are found anew."""


class WordPiece:
    """Splits text into words and words into pieces of a vocabulary, which gives their numbers.

    lower_case: as the model was trained; accents then fall, too.
    """

    def __init__(self, vocabulary: Mapping[str, int], *, lower_case: bool) -> None:
        self._numbers = vocabulary
        self._begin, self._end, self._unknown = (vocabulary[p] for p in (BEGIN, END, UNKNOWN))
        self._longest = max(map(len, vocabulary))
        special = [re.escape(piece) for piece in SPECIAL if piece in vocabulary]
        self._special = re.compile("|".join(special))
        self._lower_case = lower_case
        self._cleaned, self._parted = _Cleaned(), _Parted(lower_case=lower_case)
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str, longest: int) -> tuple[list[int], bool]:
        """Numbers of [CLS], the pieces and [SEP], at most `longest`; and whether pieces were left
        out for it, which are the last ones."""
        numbers = [self._begin]
        for pieces in self._pieces(text):
            numbers += pieces
            if len(numbers) >= longest:
                return [*numbers[: longest - 1], self._end], True
        return [*numbers, self._end], False

    def _pieces(self, text: str) -> Iterator[list[int]]:
        start = 0
        for special in self._special.finditer(text):
            yield from map(self._split, self._words(text[start : special.start()]))
            yield [self._numbers[special.group()]]
            start = special.end()
        yield from map(self._split, self._words(text[start:]))

    def _words(self, text: str) -> list[str]:
        """Words, ideographs and signs of punctuation, each apart."""
        text = text.translate(self._cleaned)
        if self._lower_case:
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._parted).split()

    def _split(self, word: str) -> list[int]:
        """The longest piece that a word begins with, the longest that goes on from there, ...; or
        [UNK] for a word that does not come out even."""
        if len(word) > _LONGEST_WORD:
            return [self._unknown]
        found = self._known.get(word)
        if found is None:
            if len(self._known) >= _KEPT_WORDS:
                self._known.clear()
            found = self._known[word] = list(self._found(word)) or [self._unknown]
        return found

    def _found(self, word: str) -> list[int]:
        """Empty where the word is unknown."""
        numbers: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                number = self._numbers.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return []
            numbers.append(number)
            start, prefix = end, _CONTINUED
        return numbers


class _Cleaned(dict[int, str]):
    """What stands for a character before words are looked for: nothing for controls, a space for
    any white one, and space around ideographs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in "\t\n\r":
            cleaned = " "
        elif code in (0, 0xFFFD) or _category(code) in ("Cc", "Cf", "Co"):
            cleaned = ""
        elif character.isspace():
            cleaned = " "
        elif any(first <= code <= last for first, last in _IDEOGRAPHS):
            cleaned = f" {character} "
        else:
            cleaned = character
        self[code] = cleaned
        return cleaned


class _Parted(dict[int, str]):
    """What stands for a character of a clean text: space around punctuation; and the small letter
    without its accents, which are characters of their own by then, where case does not matter."""

    def __init__(self, *, lower_case: bool) -> None:
        self._lower_case = lower_case

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = _category(code)
        if self._lower_case and category == "Mn":
            parted = ""
        elif category.startswith("P") or (code < 128 and category.startswith("S")):
            parted = f" {character} "
        else:
            parted = character.lower() if self._lower_case else character
        self[code] = parted
        return parted


_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_CATEGORIES = {0x166D: "Po", 0x1734: "Mn", 0x111C9: "Po"}
"""Of characters that Unicode 8, which `tokenizers` keeps to, counted otherwise."""
_LATER_THAN_8 = (
    "61d 7fd 890-8e2 9fd-9fe a76 afa-aff b55 c04-c3c c77 c84 d00 d3b-d3c d81 eba ece 180f-1886 "
    "1abf-1add 1b7d-1b7f 1df6-1dfb 2e43-2e5d a82c a8c5 a8ff a9bd 10d24-10f89 11070-11074 "
    "110c2-110cd 111cf 1123e-11241 1133b 11380-113e2 11438-1145e 11660-1166c 116b9 1182f-11fff "
    "12ff1-13455 16d40-16d7f 16e97-16f4f 16fe2-16fe4 1cf00-1cf46 1e000-1e5ff 1e944-1e95f"
)
"""Characters that came after Unicode 8, or lie among those: neither mark, sign nor control."""


_LATER = [
    range(int(first, 16), int(last or first, 16) + 1)
    for first, _, last in (item.partition("-") for item in _LATER_THAN_8.split())
]


def _category(code: int) -> str:
    """As of Unicode 8, as far as it matters here: whatever Python's own version is."""
    if any(code in later for later in _LATER) and code not in _CATEGORIES:
        return "Lo"
    return _CATEGORIES.get(code) or unicodedata.category(chr(code))
