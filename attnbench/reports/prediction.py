"""What a trained model makes of a text: in the terminal, and as a picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

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
    """Print the answer; and the words shaded by their weights, the mean over heads, then those with the most.

    An answer that was written piece by piece has a line for each instead: its probability, and where it looked.
    """
    console = console or Console(highlight=False)
    console.print(f"{prediction.label}  {prediction.probability:.3f}  (its probability, by the model)", markup=False)
    if prediction.attention is None:
        return
    if prediction.written:
        _show_pieces(prediction.attention, prediction.written, console)
        return
    weights = prediction.attention.weights.detach().float().mean(dim=(0, 1)).tolist()
    words = [_seen(word) for word in prediction.attention.columns]
    most = max(*weights, 1e-12)
    text = Text()
    for word, weight in zip(words, weights, strict=True):
        share = weight / most
        paper = f"rgb({255 - round(15 * share)},{255 - round(145 * share)},{255 - round(225 * share)})"
        text.append(word, style=f"black on {paper}").append(" ")
    console.print(text)
    ranked = sorted(zip(weights, words, strict=True), key=lambda pair: -pair[0])[:8]
    listed = "  ".join(f"{word} {weight:.3f}" for weight, word in ranked)
    console.print(f"most weight (of {1 / len(words):.3f} if all had the same): {listed}", markup=False)


def _show_pieces(attention: AttentionMap, written: Sequence[float], console: Console) -> None:
    """Print each piece with its probability, and the words that it looked at most, up to three, with their weights."""
    alike = 1 / len(attention.columns)
    console.print(f"written, its probability <- read, its weight (of {alike:.2f} if all had the same)", markup=False)
    pieces = [_seen(piece) for piece in attention.rows]
    width = max(map(len, pieces))
    for piece, probability, row in zip(pieces, written, attention.weights.detach().float().mean(dim=0), strict=True):
        weights, places = row.topk(min(3, len(row)))
        looked = [
            f"{_seen(attention.columns[place])} {weight:.2f}"
            for weight, place in zip(weights.tolist(), places.tolist(), strict=True)
            if place == places[0] or weight >= 0.1
        ]
        console.print(f"  {piece:<{width}} {probability:.2f} <- {'  '.join(looked)}", markup=False)


def _seen(word: str) -> str:
    """Return a word that a terminal shows; a blank as what can be seen."""
    return "␣" if word == " " else printable(word)
