from dataclasses import replace

import numpy as np
import pytest
import torch

from attnbench import AttentionMap
from attnbench.reports.attention import Redrawn, draw, pixels


def example(heads, queries, keys, mask=None):
    weights = torch.softmax(torch.randn(heads, queries, keys), -1)
    return AttentionMap(weights, list("0123456789"[:queries]), ["k"] * keys, mask, "title")


def tiles(figure):
    return [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]


def labels(axis):
    """Return what is written beside the rows of a tile, and under its columns."""
    texts, rows = [text.get_text() for text in axis.texts], axis.images[0].get_array().shape[0]
    return texts[:rows], texts[rows:]


def test_there_is_a_tile_for_each_head_and_one_colour_bar():
    figure = draw(example(3, 4, 5))
    assert [axis.get_title() for axis in tiles(figure)] == ["head 1 of 3", "head 2 of 3", "head 3 of 3"]
    assert len([axis for axis in figure.axes if axis.get_label() == "<colorbar>"]) == 1


def test_every_row_and_column_is_labelled():
    axis = tiles(draw(example(1, 4, 5)))[0]
    assert labels(axis) == (["0", "1", "2", "3"], ["k"] * 5)


@pytest.mark.parametrize(
    ("heads", "queries", "keys", "word"), [(1, 1, 3, "k"), (8, 5, 12, "word"), (3, 9, 2, "of many")]
)
def test_tiles_their_labels_the_title_and_the_bar_have_each_a_place_of_their_own(heads, queries, keys, word):
    made = example(heads, queries, keys)
    figure = draw(replace(made, columns=[word] * keys, rows=[word] * queries, title="a title in some lines " * 5))
    renderer = figure.canvas.get_renderer()
    boxes = [axis.get_tightbbox(renderer) for axis in figure.axes] + [figure.texts[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    for axis in tiles(figure):  # of squares, 0.19 inches wide
        assert axis.get_window_extent().size == pytest.approx((keys * 0.19 * 110, queries * 0.19 * 110))


def test_of_many_keys_the_last_are_drawn_and_the_largest_weight_is_the_brightest():
    weights = 0.01 * torch.eye(500)[-3:].unsqueeze(0)
    picture = draw(AttentionMap(weights, list("abc"), [str(n) for n in range(500)]))
    (axis,) = tiles(picture)
    assert labels(axis) == (list("abc"), [str(n) for n in range(436, 500)])
    assert axis.images[0].get_array().tolist() == (0.01 * torch.eye(64))[-3:].tolist()
    assert axis.images[0].get_clim() == pytest.approx((0.0, 0.01))


def test_what_is_left_out_of_many_keys_is_said_with_its_weight():
    weights = torch.zeros(1, 2, 100)
    weights[0, 0, 40] = weights[0, 1, 99] = 0.75
    weights[0, 0, 0] = weights[0, 1, 98] = 0.25
    (axis,) = tiles(draw(AttentionMap(weights, list("ab"), ["k"] * 100)))
    says = "key; the last 64 keys of 100 are shown, and the others have up to 0.25 of a query's weight"
    assert axis.get_xlabel() == says
    written = draw(AttentionMap(torch.full((1, 1, 800), 1 / 800), ["a"], ["w"] * 800))
    says = "; the last 600 keys of 800 are shown, and the others have up to 0.25 of a query's weight"
    assert [text.get_text() for text in written.axes[0].texts if says in text.get_text()]


def test_a_masked_position_has_a_colour_that_no_weight_has():
    mask = torch.tensor([[True, True, False]])
    attention_map = AttentionMap(torch.tensor([[[0.0, 1.0, 0.0]]]), ["q"], ["a", "b", "c"], mask)
    figure = draw(attention_map)
    picture = pixels(figure)
    axis = tiles(figure)[0]
    colours = []
    for column in range(3):
        x, y = axis.transData.transform((column + 0.3, 0.3))
        colours.append(tuple(int(c) for c in picture[picture.shape[0] - 1 - int(y), int(x)]))
    unattended, attended, masked = colours
    assert len({unattended, attended, masked}) == 3
    assert max(masked) - min(masked) <= 2  # grey


def test_pixels_are_an_image_of_three_channels():
    picture = pixels(draw(example(8, 10, 29)))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


def test_one_query_over_many_keys_is_written_as_a_text_the_heaviest_word_darkest():
    words = ["costs", "$5", *["word"] * 40]
    weights = torch.full((2, 1, 42), 0.01)
    weights[0, 0, 1] = weights[1, 0, 0] = 0.6
    figure = draw(AttentionMap(weights, ["review"], words, title="positive"))
    heads = [[text for text in axis.texts if text.get_bbox_patch()] for axis in figure.axes]
    for head, heaviest in zip(heads, (1, 0), strict=True):
        assert [text.get_text().replace("\\", "") for text in head] == words
        darkness = [3 - sum(text.get_bbox_patch().get_facecolor()[:3]) for text in head]
        assert darkness.index(max(darkness)) == heaviest
    assert pixels(figure).std() > 0


def test_letters_that_the_font_lacks_are_spelled_a_dollar_is_one_and_a_long_label_is_cut():
    words = ["🎬", "映", "é", "$x$", "a" * 100]
    (axis,) = tiles(draw(AttentionMap(torch.eye(5).unsqueeze(0), words, words, title="$1")))
    spelled = [":clapper board:", "\\u6620", "é", r"\$x\$", "a" * 23 + "…"]
    assert labels(axis) == (spelled, spelled)
    assert axis.figure.get_suptitle() == r"\$1"
    pixels(axis.figure)  # a warning would be an error


@pytest.mark.parametrize("keys", [4, 40])
def test_a_long_title_keeps_both_its_ends(keys):
    title = " ".join(f"k{i}" for i in range(60))
    figure = draw(AttentionMap(torch.eye(keys)[None, :1], ["a"], ["b"] * keys, title=title))
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure._suptitle.get_text().split() == title.split()
    assert box.y1 <= figure.bbox.y1
    drawn = [artist for axis in figure.axes for artist in (*axis.texts, *axis.images)]
    assert box.y0 >= max(artist.get_window_extent().y1 for artist in drawn)


def on_a_grid(heads=1, **more):
    weights = torch.zeros(heads, 2, 6)
    weights[:, 0, 1], weights[:, 0, 2], weights[:, 1, 5] = 0.3, 0.1, 0.2
    return AttentionMap(weights, ["three", "end"], [str(n) for n in range(6)], grid=(2, 3), **more)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def test_keys_of_a_grid_are_drawn_over_the_image_a_panel_for_each_query():
    image = torch.linspace(0, 1, 24).view(4, 6)
    alone, three, end = panels(draw(on_a_grid(image=image)))
    assert [axis.get_title() for axis in (alone, three, end)] == ["image", "three", "end"]
    for axis in (alone, three, end):
        assert np.allclose(axis.images[0].get_array(), image)
        assert axis.images[0].get_extent() == [0, 3, 2, 0]
    depth = three.images[1].get_array()[..., 3]
    assert np.allclose(depth / depth.max(), [[0, 1, 1 / 3], [0, 0, 0]])
    assert end.images[1].get_array()[1, 2, 3] == pytest.approx(2 / 3 * depth.max())  # one scale for all
    assert pixels(three.figure).std() > 0


def test_the_truth_is_outlined_and_the_weight_within_it_is_said():
    truth = torch.tensor([[False, True, False, False, True, False], [False] * 6])
    three, end = panels(draw(on_a_grid(truth=truth)))
    assert three.get_title() == "three\n0.30 in the outline"
    (edges,) = three.collections
    around = {((1, 0), (2, 0)), ((1, 2), (2, 2)), *(((x, y), (x, y + 1)) for x in (1, 2) for y in (0, 1))}
    assert {tuple(map(tuple, edge.tolist())) for edge in edges.get_segments()} == around
    assert end.get_title() == "end"
    assert not end.collections


def test_heads_over_a_grid_have_panels_of_their_own_and_a_colour_image_is_grey_under_the_weights():
    image = torch.rand(4, 6, 3)
    alone, *others = panels(draw(on_a_grid(heads=2, image=image, title="a long title " * 20)))
    names = ["three (head 1)", "end (head 1)", "image", "three (head 2)", "end (head 2)"]
    assert [axis.get_title() for axis in others] == names
    assert [axis.get_subplotspec().rowspan.start for axis in others] == [0, 0, 1, 1, 1]
    assert np.allclose(alone.images[0].get_array(), image)
    assert np.allclose(others[0].images[0].get_array(), image.mean(dim=2))
    box = alone.figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= alone.figure.bbox.x1


def test_masked_places_of_a_grid_are_grey():
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4] = False
    three, _ = panels(draw(on_a_grid(mask=mask)))
    assert len(set(three.images[1].get_array()[1, 1])) == 2  # r = g = b, opaque


@pytest.mark.parametrize("heads", [1, 3])
def test_a_picture_with_other_weights_rows_and_title_is_what_it_would_be_if_drawn_anew(heads):
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 3:] = False
    first, second = (replace(example(heads, 4, 6, mask), rows=list(rows)) for rows in ("0123", "3210"))
    second = replace(second, title="eltit")
    redrawn = Redrawn()
    assert np.array_equal(redrawn.pixels(first), pixels(draw(first)))
    figure = redrawn.figure
    changed = redrawn.pixels(second)
    assert redrawn.figure is figure
    assert np.array_equal(changed, pixels(draw(second)))
    longer = replace(first, title="of many words, " * 20)
    assert np.array_equal(redrawn.pixels(longer), pixels(draw(longer)))


def colours(figure):
    """Return how the first tile is coloured, the ends of its scale, and those that the bar shows."""
    image = tiles(figure)[0].images[0]
    (bar,) = (axis for axis in figure.axes if axis.get_label() == "<colorbar>")
    return image.get_cmap().name, image.get_clim(), bar.get_ylim()


def of(rows, **more):
    weights = torch.tensor([rows])
    return AttentionMap(weights, list("qr"), [str(k) for k in range(weights.shape[-1])], **more)


def test_distributions_are_coloured_from_0_to_1_and_larger_weights_up_to_the_largest():
    for rows in ([[0.25, 0.75], [0.0, 1.0]], [[0.25, 0.75], [0.0, 1.0000005]]):
        assert colours(draw(of(rows))) == ("magma", (0.0, 1.0), (0.0, 1.0))
    assert colours(draw(of([[5.0, 0.1], [0.2, 1.0]]))) == ("magma", (0.0, 5.0), (0.0, 5.0))
    assert not np.array_equal(pixels(draw(of([[5.0, 0.1], [0.2, 1.0]]))), pixels(draw(of([[1.0, 0.1], [0.2, 1.0]]))))


@pytest.mark.parametrize("keys", [2, 70])
def test_negative_weights_have_a_colour_of_their_own_on_a_scale_of_both_signs(keys):
    rows = [[0.5, -3.0], [0.2, -0.9]]
    figure = draw(of([[0.0] * (keys - 2) + row for row in rows]))
    assert colours(figure) == ("RdBu_r", (-3.0, 3.0), (-3.0, 3.0))
    without = draw(of([[0.0] * (keys - 2) + [row[0], 0.0] for row in rows]))
    assert not np.array_equal(pixels(figure), pixels(without))
    mask = torch.ones(2, keys, dtype=torch.bool)
    mask[0, -1] = mask[1, -1] = False  # what is hidden has no colour
    assert colours(draw(of([[0.0] * (keys - 2) + row for row in rows], mask=mask)))[0] == "magma"


def test_one_signed_weight_in_a_hundred_may_go_beyond_the_scale():
    weights = torch.linspace(-1, 1, 1000).view(1, 20, 50)
    weights[0, 0, 0] = -1000.0
    cmap, (low, high), shown = colours(draw(AttentionMap(weights, ["q"] * 20, ["k"] * 50)))
    assert cmap == "RdBu_r"
    assert 0.95 < high == -low < 1
    assert shown == (low, high)


def test_signed_weights_of_a_text_and_over_an_image_are_coloured_by_size_and_sign():
    weights = torch.full((1, 1, 20), 0.01)
    weights[0, 0, 3], weights[0, 0, 4] = -0.6, 0.3
    figure = draw(AttentionMap(weights, ["review"], ["word"] * 20))
    papers = [text.get_bbox_patch().get_facecolor() for text in figure.axes[0].texts if text.get_bbox_patch()]
    darkness = [3 - sum(paper[:3]) for paper in papers]
    assert sorted(range(20), key=darkness.__getitem__)[-2:] == [4, 3]
    assert papers[3][2] > papers[3][0]  # bluer than red
    assert papers[4][0] > papers[4][2]
    grid = on_a_grid()
    grid.weights[0, 0, 2] = -0.6
    three, _ = panels(draw(grid))
    red, _, blue, depth = three.images[1].get_array()[0].T
    assert blue[2] > red[2]
    assert red[1] > blue[1]
    assert depth[2] == pytest.approx(2 * depth[1])
    (bar,) = (axis for axis in three.figure.axes if axis.get_ylabel() == "weight")
    assert bar.get_ylim() == pytest.approx((-0.6, 0.6))


def test_a_picture_of_other_signed_weights_has_their_scale():
    redrawn, figures = Redrawn(), []
    for rows in ([[0.5, -0.9], [0.2, -0.3]], [[0.5, -3.0], [0.2, -0.3]], [[0.5, 0.5], [0.0, 1.0]]):
        assert np.array_equal(redrawn.pixels(of(rows)), pixels(draw(of(rows))))
        figures.append(redrawn.figure)
    assert figures[0] is figures[1]
