import numpy as np
import pytest
import torch

from attnbench import AttentionMap
from attnbench.reports.attention import draw, pixels


def example(heads, queries, keys, mask=None):
    weights = torch.softmax(torch.randn(heads, queries, keys), -1)
    return AttentionMap(weights, list("0123456789"[:queries]), ["k"] * keys, mask, "title")


def tiles(figure):
    return [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]


def test_there_is_a_tile_for_each_head_and_one_colour_bar():
    figure = draw(example(3, 4, 5))
    assert [axis.get_title() for axis in tiles(figure)] == ["head 1 of 3", "head 2 of 3", "head 3 of 3"]
    assert len([axis for axis in figure.axes if axis.get_label() == "<colorbar>"]) == 1


def test_every_row_and_column_is_labelled():
    axis = tiles(draw(example(1, 4, 5)))[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "2", "3"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["k"] * 5


def test_of_many_keys_the_last_are_drawn_and_the_largest_weight_is_the_brightest():
    weights = 0.01 * torch.eye(500)[-3:].unsqueeze(0)
    picture = draw(AttentionMap(weights, list("abc"), [str(n) for n in range(500)]))
    (axis,) = tiles(picture)
    assert [label.get_text() for label in axis.get_xticklabels()] == [str(n) for n in range(436, 500)]
    assert axis.images[0].get_array().tolist() == (0.01 * torch.eye(64))[-3:].tolist()
    assert axis.images[0].get_clim() == pytest.approx((0.0, 0.01))


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
    labels = ["🎬", "映", "é", "$x$", "a" * 100]
    (axis,) = tiles(draw(AttentionMap(torch.eye(5).unsqueeze(0), labels, labels, title="$1")))
    spelled = [":clapper board:", "\\u6620", "é", r"\$x\$", "a" * 23 + "…"]
    assert [label.get_text() for label in axis.get_xticklabels()] == spelled
    assert axis.figure.get_suptitle() == r"\$1"
    pixels(axis.figure)  # a warning would be an error


def test_a_long_title_keeps_both_its_ends():
    title = " ".join(f"k{i}" for i in range(60))
    figure = draw(AttentionMap(torch.eye(4)[None], list("abcd"), list("abcd"), title=title))
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure._suptitle.get_text().split() == title.split()
