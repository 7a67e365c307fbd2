"""Attention weights as pictures."""

from __future__ import annotations

import functools
import textwrap
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from attnbench.answers import AttentionMap
from attnbench.reports.tensorboard import EventLog
from attnbench.training.experiment import Experiment

CELL = 0.19  # inches, for a label of 8 points to be read
TILE = 64  # keys that a tile has at most: the last ones
LINE = 12  # keys that one query looks at are drawn in a line up to here, and written as a text beyond
COLUMNS, WRITTEN = 140, 600  # letters in a line of such a text, and how many keys it has: the last ones
WIDE = 76  # keys that tiles side by side have at most: what a screen shows
LETTERS = 24  # that a label has at most
GAP, BAR = 0.08, 0.8  # inches between tiles; and for the bar of colours and its labels
OFFSETS = (-0.05, 0), (0, -0.05)  # inches from a tile to the labels of its rows and columns
PANELS = 6  # side by side, of a map that is laid over an image
LAID, AGAINST, OUTLINE = "darkorange", "royalblue", "cyan"  # weights over an image, negative ones, the truth's edge
SIGNED = "RdBu_r"  # negative weights blue, positive ones red
HIDDEN = "#c8c8c8"  # masked positions: grey, a colour that no weight has


def draw(attention_map: AttentionMap) -> Figure:
    """Draw one example's weights: a tile for each head, queries down, the last keys across, grey where masked.

    Colours are those of `scale`, over more than `TILE` keys up to the largest weight that is drawn.
    Where one query looks at many keys, a line would be too long: the labels are then written as a text (`write`).
    Keys that are places of a grid are drawn over the image (`lay_over`).
    """
    if attention_map.grid is not None:
        return lay_over(attention_map)
    if attention_map.weights.shape[1] == 1 and len(attention_map.columns) > LINE:
        return write(attention_map)
    left_out = _left_out(attention_map, TILE)
    weights = _hidden_as_nan(attention_map)
    many = weights.shape[-1] > TILE
    weights, columns = weights[..., -TILE:], [_label(label) for label in attention_map.columns[-TILE:]]
    colours = scale(weights, many)
    heads, queries, keys = weights.shape
    figure = Figure(figsize=(keys * CELL, queries * CELL), dpi=110)  # one tile, whose labels stand outside for now
    tiles = [figure.add_axes((0, 0, 1, 1), label=f"tile {head}") for head in range(heads)]
    rotation = 90 if max(map(len, columns)) > 2 else 0
    for head, axis in enumerate(tiles):
        axis.set_facecolor(HIDDEN)
        image = axis.imshow(weights[head], **colours, aspect="auto", interpolation="none")
        axis.set(xticks=[], yticks=[])  # Matplotlib takes twice as long over ticks as over texts
        beside, below = (axis.transData + ScaledTranslation(x, y, figure.dpi_scale_trans) for x, y in OFFSETS)
        for row, label in enumerate(attention_map.rows):
            axis.text(-0.5, row, _plain(_label(label)), size=8, transform=beside, ha="right", va="center_baseline")
        for column, label in enumerate(columns):
            text = axis.text(column, queries - 0.5, _plain(label), size=8, transform=below, ha="center", va="top")
            text.set_rotation(rotation)
        axis.set_xlabel(f"key{left_out}", fontsize=8)
        axis.set_ylabel("query", fontsize=8)
        if heads > 1:
            axis.set_title(f"head {head + 1} of {heads}", fontsize=8)
    cax = figure.add_axes((0, 0, 1, 1), label="<colorbar>")
    bar = figure.colorbar(image, cax=cax, extend="both" if _exceeded(colours, weights) else "neither", extendfrac=0.02)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _arrange(figure, tiles, bar.ax, attention_map.title)
    return figure


def scale(weights: np.ndarray[Any, np.dtype[np.float32]], many: bool = False) -> dict[str, Any]:
    """Return Matplotlib's `cmap`, `vmin` and `vmax` for weights, NaN where masked.

    From 0 to 1; to the largest where that is above 1, or where there are many, of which each has little. Where a weight
    is negative, from -m to m, the size that 99% do not exceed: a running state's first rows may be larger by far.
    """
    if (weights < 0).any():
        sizes = np.abs(np.nan_to_num(weights))
        m = float(np.quantile(sizes[sizes > 0], 0.99, method="higher"))
        return {"cmap": SIGNED, "vmin": -m, "vmax": m}
    largest = _largest(weights)
    beyond = largest > 1.001  # and not by rounding
    return {"cmap": "magma", "vmin": 0.0, "vmax": largest if many or beyond else 1.0}


def _exceeded(colours: Mapping[str, Any], weights: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    return bool(colours["vmin"] < 0 and colours["vmax"] < _largest(weights))


def _largest(weights: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    return float(np.abs(np.nan_to_num(weights)).max())


def _arrange(figure: Figure, tiles: list[Any], bar: Any, title: str) -> None:
    """Make a figure, which is as large as one tile, as large as tiles, labels, bar and title need; in inches.

    It takes half of the time of Matplotlib's layouts: of the tiles, which have all the same labels, one is measured.
    """
    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    ends = np.min([text.get_window_extent(renderer).min for text in tiles[-1].texts], axis=0)  # left and lowest
    for axis in tiles:
        axis.yaxis.labelpad, axis.xaxis.labelpad = 2 - ends * 72 / figure.dpi
    (wide, high), keys = figure.get_size_inches(), tiles[0].images[0].get_array().shape[1]
    labelled = tiles[-1].get_tightbbox(renderer).transformed(figure.dpi_scale_trans.inverted())
    left, below, right, above = -labelled.x0, -labelled.y0, labelled.x1 - wide, labelled.y1 - high
    rows = -(-len(tiles) // max(1, WIDE // keys))
    across = -(-len(tiles) // rows)
    column, row = left + wide + right + GAP, below + high + above + GAP
    body = max(rows * row, 1.0)
    figure.set_size_inches(across * column + GAP + BAR, body + 0.3)
    _set_title(figure, title)
    width, height = figure.get_size_inches()
    figure.texts[0].set_y(1 - 0.08 / height)
    for place, axis in enumerate(tiles):
        x, y = GAP + place % across * column + left, body - (place // across + 1) * row + GAP + below
        axis.set_position((x / width, y / height, wide / width, high / height))
    foot = min(y, body - above - 0.7)
    bar.set_position(((width - BAR) / width, foot / height, 0.1 / width, (body - above - foot) / height))


def lay_over(attention_map: AttentionMap) -> Figure:
    """Draw the weights over the image, a panel for each query and head; outlined where the truth is, grey if masked.

    The deepest colour is the largest weight of all panels, blue where it is negative. Over a query that has a truth
    stands the weight there.
    """
    assert attention_map.grid is not None
    down, across = attention_map.grid
    weights = _hidden_as_nan(attention_map)
    heads, queries, _ = weights.shape
    largest = max(_largest(weights), 1e-12)
    image = np.zeros((down, across)) if attention_map.image is None else attention_map.image.float().cpu().numpy()
    grey = image if image.ndim == 2 else image.mean(axis=2)
    truth = None if attention_map.truth is None else attention_map.truth.cpu().numpy()
    panels: list[int | None] = [*([] if attention_map.image is None else [None]), *range(queries)]
    height = -(-len(panels) // PANELS)  # of one head: each begins a row
    width = -(-len(panels) // height)
    size = max(4.0, width * 1.5 + 0.8), heads * height * (1.5 * down / across + 0.4) + 0.5
    figure = Figure(figsize=size, dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(heads * height, width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    each = ((head, query) for head in range(heads) for query in panels)
    for axis, (head, query) in zip(axes.reshape(heads, -1)[:, : len(panels)].flat, each, strict=True):
        axis.imshow(image if query is None else grey, cmap="gray", vmin=0, vmax=1, extent=(0, across, down, 0))
        if query is None:
            axis.set_title("image", fontsize=8)
            continue
        shares = weights[head, query].reshape(down, across)
        colours = np.empty((down, across, 4))
        colours[..., :3], colours[..., 3] = to_rgb(LAID), 0.7 * np.abs(shares) / largest
        colours[shares < 0, :3] = to_rgb(AGAINST)
        colours[np.isnan(shares)] = to_rgba(HIDDEN)
        axis.imshow(colours, extent=(0, across, down, 0), interpolation="none")
        says = _label(attention_map.rows[query]) + (f" (head {head + 1})" if heads > 1 else "")
        if truth is not None and truth[query].any():
            axis.add_collection(LineCollection(_outline(truth[query].reshape(down, across)), colors=OUTLINE))
            says += f"\n{np.nansum(weights[head, query][truth[query]]):.2f} in the outline"
        axis.set_title(_plain(says), fontsize=8)
    signed = (weights < 0).any()
    shades = LinearSegmentedColormap.from_list("laid", [AGAINST, "black", LAID] if signed else ["black", LAID])
    bar = figure.colorbar(
        ScalarMappable(Normalize(-largest if signed else 0, largest), shades), ax=axes, fraction=0.03, pad=0.02
    )
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _set_title(figure, attention_map.title)
    return figure


def _outline(cells: np.ndarray[Any, np.dtype[np.bool_]]) -> list[list[tuple[int, int]]]:
    """Return the edges, (across, down) twice, between cells that are True and cells that are not."""
    padded = np.pad(cells, 1)
    beside = [[(x, y), (x, y + 1)] for y, x in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True)]
    under = [[(x, y), (x + 1, y)] for y, x in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True)]
    return beside + under


def _hidden_as_nan(attention_map: AttentionMap) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the weights, [H, Q, K], NaN where masked."""
    weights = attention_map.weights.detach().float().cpu().numpy()
    return weights if attention_map.mask is None else np.where(attention_map.mask.cpu().numpy(), weights, np.nan)


def _left_out(attention_map: AttentionMap, most: int) -> str:
    """Say how many keys are not drawn where only the last `most` are, and how much weight they have."""
    count = len(attention_map.columns)
    if count <= most:
        return ""
    rest = float(attention_map.weights.detach().abs().float()[..., :-most].sum(dim=-1).max())
    return f"; the last {most} keys of {count} are shown, and the others have up to {rest:.2f} of a query's weight"


def _lines(figure: Figure, title: str) -> list[str]:
    return textwrap.wrap(_drawable(title), int(14 * figure.get_figwidth()))  # letters of 9 points


def _set_title(figure: Figure, title: str) -> float:
    """Write the title in lines that no end is cut off; return by how many inches the figure was made taller for it."""
    lines = _lines(figure, title)
    figure.suptitle(_plain("\n".join(lines)), fontsize=9)
    more = 0.15 * max(0, len(lines) - 1)
    figure.set_figheight(figure.get_figheight() + more)
    return more


def write(attention_map: AttentionMap) -> Figure:
    """Write the labels of the keys as a text, one for each head, shaded by their weights; darkest is the largest.

    Where a weight is negative, positive ones are red and negative ones blue.
    """
    weights = attention_map.weights.detach().float().cpu()[:, 0]
    places = list(_set([_label(label, "monospace") for label in attention_map.columns[-WRITTEN:]]))
    lines = places[-1][0] + 1
    height = 0.21 * (lines + 1.5)
    figure = Figure(figsize=(9.5, len(weights) * height + 0.5), dpi=110)
    FigureCanvasAgg(figure)
    above = 0.3 + _set_title(figure, attention_map.title)
    left_out = _left_out(attention_map, WRITTEN)
    signed = bool((weights < 0).any())
    colours = matplotlib.colormaps[SIGNED if signed else "Oranges"]
    for head, shares in enumerate(weights[:, -WRITTEN:].tolist()):
        axis = figure.add_axes((0.01, 1 - (above + (head + 1) * height) / figure.get_figheight(), 0.98, 1.0))
        axis.set_axis_off()
        most = max(*map(abs, shares), 1e-12)
        for (line, start, label), share in zip(places, shares, strict=True):
            x, y = start / COLUMNS, (height - 0.21 * (line + 1.5)) / figure.get_figheight()
            shade = 0.5 + 0.35 * share / most if signed else 0.8 * share / most
            box = {"facecolor": colours(shade), "edgecolor": "none", "pad": 1.2}
            axis.text(x, y, _plain(label), fontsize=7.5, family="monospace", va="bottom", bbox=box)
        name = f"head {head + 1} of {len(weights)}: " if len(weights) > 1 else ""
        top = (height - 0.19) / figure.get_figheight()
        says = "red: positive, blue: negative, " if signed else ""
        axis.text(0, top, f"{name}{says}darkest: weight {most:.3f}{left_out}", fontsize=7.5, va="bottom")
    return figure


def _set(labels: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Lay words out in lines: yield each one's line, column and label."""
    line = column = 0
    for label in labels:
        if column and column + len(label) > COLUMNS:
            line, column = line + 1, 0
        yield line, column, label
        column += len(label) + 1


def _label(text: str, family: str = "sans-serif") -> str:
    """Return a label that can be drawn and seen, and is not too long."""
    text = "␣" if text == " " else _drawable(text, family)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _drawable(text: str, family: str = "sans-serif") -> str:
    """Spell what the font lacks, which would be drawn as a box: the name of an emoji, the code of a letter."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if ord(c) in _letters(family) or c == "\n" else _spelled(c) for c in text)


def _plain(text: str) -> str:
    """Keep Matplotlib from reading a dollar as mathematics."""
    return text.replace("$", r"\$")


def _spelled(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category in ("Mn", "Cf"):  # it changes its neighbour, or has no width
        return ""
    return f":{name.lower()}:" if category == "So" and name else character.encode("unicode_escape").decode()


@functools.cache
def _letters(family: str) -> frozenset[int]:
    """Return the codes of the letters that a font has."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[family])))
    return frozenset(font.get_charmap())


def pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Render a figure: [height, width, 3], 0..255."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


class Redrawn:
    """The picture of one example again and again: what stays is drawn once; weights, rows and title are exchanged.

    So is the bar of colours, unless it goes from 0 to 1.
    """

    def __init__(self) -> None:
        self.stays: Any = None
        self.figure: Any
        self.canvas: Any
        self.lines = 0

    def pixels(self, attention_map: AttentionMap) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Render an example's picture as `draw` has it: [height, width, 3], 0..255."""
        (heads, queries, keys), rows = attention_map.weights.shape, [_label(row) for row in attention_map.rows]
        if attention_map.grid is not None or keys > TILE or (queries == 1 and keys > LINE):
            return pixels(draw(attention_map))
        shown = _hidden_as_nan(attention_map)
        short = max(map(len, rows), default=0) == 1  # longer ones move what stays
        colours = scale(shown)
        fixed = (colours["vmin"], colours["vmax"]) == (0.0, 1.0)
        bar = fixed, colours["cmap"], _exceeded(colours, shown)
        stays = heads, queries, bar, tuple(attention_map.columns), () if short else tuple(rows)
        if stays != self.stays or len(_lines(self.figure, attention_map.title)) != self.lines:
            self.stays, self.figure = stays, draw(attention_map)
            self.lines = len(_lines(self.figure, attention_map.title))
            self._keep(fixed)
        self.canvas.restore_region(self.background)
        renderer = self.canvas.get_renderer()
        for image, weights in zip(self.images, shown, strict=True):
            image.set_data(weights)
            image.set_clim(colours["vmin"], colours["vmax"])
        for label, row in zip(self.labels, rows * heads, strict=True):
            label.set_text(_plain(row))
        self.title.set_text(_plain("\n".join(_lines(self.figure, attention_map.title))))
        for artist in self.changing:
            artist.draw(renderer)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def _keep(self, fixed: bool) -> None:
        """Draw what stays by itself, the bar of colours too if it is fixed."""
        self.canvas = self.figure.canvas
        tiles = [axis for axis in self.figure.axes if axis.images and axis.get_label() != "<colorbar>"]
        self.images = [axis.images[0] for axis in tiles]
        frames = [spine for axis in tiles for spine in axis.spines.values()]
        self.labels = [text for axis in tiles for text in axis.texts[: axis.images[0].get_array().shape[0]]]
        self.title: Any = self.figure.texts[0]
        bars = [] if fixed else [axis for axis in self.figure.axes if axis not in tiles]
        self.changing = (*self.images, *frames, *self.labels, self.title, *bars)
        for artist in self.changing:
            artist.set_visible(False)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        for artist in self.changing:
            artist.set_visible(True)


class Pictures(pl.Callback):
    """Draw the same few validation examples at each validation: `attention/<number>`, and what was made of them.

    With them go the task's own pictures, `Task.images`; and at the end those of its test, `Task.figures`.
    """

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.drawn: defaultdict[int, Redrawn] = defaultdict(Redrawn)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pictures to TensorBoard."""
        assert isinstance(pl_module, Experiment)
        logger = trainer.logger
        if not trainer.is_global_zero or not isinstance(logger, EventLog) or not self.examples:
            return
        task, model = pl_module.task, pl_module.model
        with torch.no_grad(), torch.random.fork_rng():  # pictures change nothing that follows
            batch = pl_module.first_examples(self.examples)
            maps, texts, images = task.maps(model, batch), task.texts(model, batch), task.images(model)
        for number, attention_map in enumerate(maps):
            picture = self.drawn[number].pixels(attention_map)
            logger.add_picture(f"attention/{number}", picture, pl_module.steps)
        for tag, figure in images.items():
            FigureCanvasAgg(figure)
            logger.add_picture(tag, pixels(figure), pl_module.steps)
        if texts:
            logger.experiment.add_text("examples", "\n".join(f"    {text}" for text in texts), pl_module.steps)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pictures of the test to TensorBoard."""
        assert isinstance(pl_module, Experiment)
        logger = trainer.logger
        if trainer.is_global_zero and isinstance(logger, EventLog):
            for name, figure in pl_module.task.figures(pl_module.values).items():
                FigureCanvasAgg(figure)
                logger.add_picture(f"test/{name}", pixels(figure), pl_module.steps)
