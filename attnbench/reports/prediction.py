"""What a trained model makes of a text: in the terminal, and as a picture."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from attnbench.interfaces import Prediction


def show(prediction: Prediction, console: Console | None = None) -> None:
    """Print the answer, and the words shaded by their weights, the mean over heads; then those with the most."""
    console = console or Console(highlight=False)
    console.print(f"{prediction.label}  {prediction.probability:.3f}")
    if prediction.looked is None:
        return
    weights = prediction.looked.weights.detach().float().mean(dim=(0, 1)).tolist()
    words = prediction.looked.columns
    most = max(*weights, 1e-12)
    text = Text()
    for word, weight in zip(words, weights, strict=True):
        share = weight / most
        paper = f"rgb({255 - round(15 * share)},{255 - round(145 * share)},{255 - round(225 * share)})"
        text.append(word, style=f"black on {paper}").append(" ")
    console.print(text)
    ranked = sorted(zip(weights, words, strict=True), key=lambda pair: -pair[0])[:8]
    console.print("most weight: " + "  ".join(f"{word} {weight:.3f}" for weight, word in ranked), markup=False)


def draw(prediction: Prediction, path: Path) -> None:
    """Write the picture of the words' weights, head by head."""
    from attnbench.reports.attention import draw as drawn

    assert prediction.looked is not None
    drawn(prediction.looked).savefig(path)
