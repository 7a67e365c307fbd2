"""What a trained model makes of a text: in the terminal, and as a picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from rich.text import Text
from torch import Tensor

from attnbench.answers import AttentionMap, Prediction
from attnbench.errors import UsageError
from attnbench.reports.compare import printable


def read_text(words: Sequence[str]) -> str:
    """Return the text of the command line, or else that of standard input; UsageError where that is empty or not UTF-8.

    Standard input is UTF-8, whatever the terminal's encoding; a byte order mark is no part of the text.
    """
    data = " ".join(words).encode("utf-8", "surrogateescape") if words else sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise UsageError(f"predict: the text is not UTF-8 ({where}); convert it, as `iconv -f latin1` does") from error
    if not text.strip():
        raise UsageError('predict: the text is empty; predict RUN_FOLDER "text", or the text on standard input')
    return text


def picture_path(path: Path) -> Path:
    """Return where the picture goes, a PNG if the name has no ending; UsageError where the ending is no format."""
    from matplotlib.backend_bases import FigureCanvasBase

    if not path.name:
        raise UsageError(f"--picture {path}: the name of a file is expected, such as words.png")
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    formats = sorted({*FigureCanvasBase.get_supported_filetypes()} - {"pgf"})  # which needs LaTeX
    if path.suffix[1:].lower() not in formats:
        raise UsageError(f"--picture {path}: no such format; {', '.join(formats)} are there")
    return path


def show(prediction: Prediction, console: Console | None = None) -> None:
    """Print the answer; and the words shaded by their weights, the mean size over heads, then those with the most.

    Orange is positive, blue negative, grey where heads differ in sign. An answer that was written piece by piece has a
    line for each instead: its probability, and where it looked.
    """
    console = console or Console(highlight=False)
    console.print(f"{prediction.label}  {prediction.probability:.3f}  (its probability, by the model)", markup=False)
    if prediction.attention is None:
        return
    if prediction.written:
        _show_pieces(prediction.attention, prediction.written, console)
        return
    sizes, signs = _sizes_and_signs(prediction.attention.weights.flatten(0, 1))
    signed = bool((prediction.attention.weights < 0).any())
    words = [_seen(word) for word in prediction.attention.columns]
    most = max(*sizes, 1e-12)
    text = Text()
    for word, size, sign in zip(words, sizes, signs, strict=True):
        paper = ",".join(str(255 - round(fade * size / most)) for fade in FADES[sign])
        text.append(word, style=f"black on rgb({paper})").append(" ")
    console.print(text)
    ranked = sorted(zip(sizes, words, signs, strict=True), key=lambda entry: -entry[0])[:8]
    listed = "  ".join(f"{word} {sign * signed}{size:.3f}" for size, word, sign in ranked)
    told = "either sign, ± where heads differ" if signed else f"of {1 / len(words):.3f} if all had the same"
    console.print(f"most weight ({told}): {listed}", markup=False)


#: What a word's paper lacks of red, green and blue at the largest weight, by its sign.
FADES = {"+": (15, 145, 225), "-": (225, 145, 15), "±": (130, 130, 130)}


def _sizes_and_signs(weights: Float[Tensor, "N K"]) -> tuple[list[float], list[str]]:
    """Return the mean size of each key's weights, and their sign: ± where both are there."""
    weights = weights.detach().float()
    ends = zip(weights.amin(dim=0).tolist(), weights.amax(dim=0).tolist(), strict=True)
    signs = ["+" if low >= 0 else "-" if high <= 0 else "±" for low, high in ends]
    return weights.abs().mean(dim=0).tolist(), signs


def _show_pieces(attention: AttentionMap, written: Sequence[float], console: Console) -> None:
    """Print each piece with its probability, and the words that it looked at most, up to three, with their weights."""
    signed = bool((attention.weights < 0).any())
    told = "either sign, ± where heads differ" if signed else f"of {1 / len(attention.columns):.2f} if all had the same"
    console.print(f"written, its probability <- read, its weight ({told})", markup=False)
    pieces = [_seen(piece) for piece in attention.rows]
    width = max(map(len, pieces))
    for piece, probability, row in zip(pieces, written, attention.weights.unbind(dim=1), strict=True):
        sizes, signs = _sizes_and_signs(row)
        places = sorted(range(len(sizes)), key=lambda place: -sizes[place])[:3]
        looked = [
            f"{_seen(attention.columns[place])} {signs[place] * signed}{sizes[place]:.2f}"
            for place in places
            if place == places[0] or sizes[place] >= 0.1
        ]
        console.print(f"  {piece:<{width}} {probability:.2f} <- {'  '.join(looked)}", markup=False)


def _seen(word: str) -> str:
    """Return a word that a terminal shows; a blank as what can be seen."""
    return "␣" if word == " " else printable(word)
