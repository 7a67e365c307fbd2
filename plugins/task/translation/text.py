"""Sentences as words."""

from __future__ import annotations

import re
import unicodedata

# An apostrophe before a vowel ends a word (j'ai, l'homme); any other is within one (don't, it's). A hyphen between
# letters begins a word (est-ce, au-dessus). Whatever is neither letter nor digit nor white space is a mark.
ELIDED = r"\w+'(?=[aeiouyhàâäæéèêëîïôöœùûü])"
WORD = re.compile(rf"(?:(?<=\w)-)?(?:{ELIDED}|\w+(?:'\w+)*)|[^\w\s]", re.IGNORECASE)
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def split_words(text: str, lower: bool) -> list[str]:
    """Normalise a sentence (NFC, one form of apostrophe, lower case if so chosen) and return its words and marks."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFC", text)).replace("’", "'")
    return WORD.findall(text.lower() if lower else text)


def count_words(words: list[str]) -> int:
    """Count the words that are no marks."""
    return sum(word[-1].isalnum() or len(word) > 1 for word in words)


def join_words(text: str) -> str:
    """Write words, with blanks between, as a sentence is written."""
    text = re.sub(r"(?<=\w') (?=\w)| (?=-\w)", "", text)
    return re.sub(r" (?=[.,)])", "", text)
