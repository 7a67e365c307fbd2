"""A small data set of the Large Movie Review data set's layout: made-up reviews in which one word tells the label."""

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

PER_LABEL = 40
LINE = "the film was a story of two men and their long way home with music by someone from the north"
WORDS = LINE.split(" ")
TELLING = {"pos": ("wonderful", "superb"), "neg": ("awful", "dreadful")}


def members() -> Iterator[tuple[str, str]]:
    """Yield (name, content) of each file: reviews of ten films in each split and label, and the films' addresses.

    One review stands in both splits, as some of the data set do.
    """
    rng, first = random.Random(0), ""
    for split in ("train", "test"):
        for label, telling in TELLING.items():
            for number in range(PER_LABEL):
                words = rng.choices(WORDS, k=rng.randrange(5, 40))
                words.insert(rng.randrange(len(words)), rng.choice(telling))
                text = " ".join(words) + ".<br />"
                if (label, number) == ("pos", 0):
                    text = first = first or text
                yield f"aclImdb/{split}/{label}/{number}_{9 if label == 'pos' else 2}.txt", text
            films = "".join(f"http://www.imdb.com/title/{split}{n // 4}/usercomments\n" for n in range(PER_LABEL))
            yield f"aclImdb/{split}/urls_{label}.txt", films
    yield "aclImdb/README", "Made up."


def write(path: Path, *more: tarfile.TarInfo, leave_out: str = "") -> Path:
    """Write the archive, with other members behind, without those whose name begins with `leave_out`."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members():
            if leave_out and name.startswith(leave_out):
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
        for info in more:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path
