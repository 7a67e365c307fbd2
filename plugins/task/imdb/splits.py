"""Which reviews are trained on, validated on and tested on, and which texts stand in two places."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from attnbench import Split

from .archive import Review


def split_by_film(reviews: Sequence[Review]) -> tuple[list[Review], list[Review]]:
    """Set a tenth aside, of both labels alike: reviews of films of which no other review is left.

    Films are taken in an order that is a function of their names; one whose reviews no longer fit is passed over.
    """
    films: dict[str, list[Review]] = defaultdict(list)
    for review in reviews:
        films[review.film].append(review)
    room = Counter(review.label for review in reviews)
    room = Counter({label: count // 10 for label, count in room.items()})
    aside: set[str] = set()
    for film in sorted(films, key=shuffled):
        labels = Counter(review.label for review in films[film])
        if all(labels[label] <= room[label] for label in labels):
            room -= labels
            aside.add(film)
    return [r for r in reviews if r.film not in aside], [r for r in reviews if r.film in aside]


def shuffled(text: str) -> bytes:
    """Return a key to sort by that looks random and is always the same."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def duplicates(reviews: Mapping[Split, list[Review]]) -> tuple[int, int, int]:
    """Count the texts of test that stand in train too, and repetitions within train and within test."""
    texts = {split: Counter(review.text for review in part) for split, part in reviews.items()}
    within = {split: sum(counts.values()) - len(counts) for split, counts in texts.items()}
    return len(texts["train"].keys() & texts["test"].keys()), within["train"], within["test"]
