"""A small file of pairs in English and French, of a grammar of its own: what task=translation reads in tests."""

import itertools
from pathlib import Path

SUBJECTS = {"I": ("je", 0), "you": ("tu", 1), "he": ("il", 2), "she": ("elle", 2), "Tom": ("Tom", 2)}
VERBS = {
    "see": ("vois", "vois", "voit"), "want": ("veux", "veux", "veut"), "take": ("prends", "prends", "prend"),
    "know": ("connais", "connais", "connaît"), "love": ("aime", "aimes", "aime"),
    "hear": ("entends", "entends", "entend"),
}  # fmt: skip
NOUNS = {
    "cat": ("le chat", "le minou"), "dog": ("le chien",), "house": ("la maison",), "friend": ("l'ami", "l’ami"),
    "car": ("la voiture", "l'auto"), "tree": ("l'arbre",), "child": ("l'enfant", "le petit"), "book": ("le livre",),
    "water": ("l'eau",), "city": ("la ville",), "rainbow": ("l'arc-en-ciel",),
}  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    """Return a few hundred pairs, some sources with two translations; every fourth sentence is denied."""
    lines = []
    for number, ((subject, (sujet, person)), (verb, forms), (noun, objects)) in enumerate(
        itertools.product(SUBJECTS.items(), VERBS.items(), NOUNS.items())
    ):
        for object_ in objects:
            vowel = forms[person][0] in "aeiou"
            if number % 4 == 3:
                does = "doesn't" if person == 2 else "don't"
                source = f"{subject} {does} {verb} the {noun}."
                words = f"{sujet} {'n’' if vowel else 'ne '}{forms[person]} pas {object_}."
            else:
                source = f"{subject} {verb}{'s' if person == 2 else ''} the {noun}."
                words = f"{'j’' if vowel and sujet == 'je' else sujet + ' '}{forms[person]} {object_}."
            lines.append((source[0].upper() + source[1:], words[0].upper() + words[1:]))
    return lines


def write(path: Path) -> Path:
    """Write the pairs as Tatoeba's are written: one a line, a tab between."""
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs()), encoding="utf-8")
    return path
