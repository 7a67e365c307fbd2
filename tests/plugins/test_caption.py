import math
import re
from itertools import pairwise

import pytest
import torch
from attnbench.plugins.task.caption.pictures import read_captions, split_words
from attnbench.plugins.task.caption.scenes import CANVAS, END, PAD, SIDE, WORDS, read_digits, split_samples
from attnbench.plugins.task.caption.task import GRID, Caption, covered
from PIL import Image

import attnbench
from attnbench import UsageError
from attnbench.hosts import Decoded

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "white": (250, 250, 250)}


def make_attention(query_dim, key_dim, value_dim):
    widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
    return attnbench.build("attention", "soft", scoring="additive", **widths)


def prepared(**options):
    task = Caption(**options)
    task.prepare()
    return task


@pytest.fixture(scope="module")
def task():
    return prepared()


@pytest.fixture(scope="module")
def batch(task):
    return task.data("val")[list(range(200))]


def words(row):
    return [WORDS[number] for number in row.tolist() if number not in (PAD, END)]


def test_the_digits_are_scikit_learns():
    samples, labels = read_digits()
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert samples.shape == (1797, SIDE, SIDE)
    assert samples.max() == 240
    assert samples[0].tolist()[0] == [0, 0, 75, 195, 135, 15, 0, 0]  # the first of the data set is a zero


def test_no_sample_of_a_digit_is_in_two_splits(task):
    parts = split_samples(read_digits()[1], 0)
    assert {split: len(part) for split, part in parts.items()} == {"test": 359, "val": 180, "train": 1258}
    assert len(set(torch.cat(list(parts.values())).tolist())) == 1797
    drawn = {s: {sample.numpy().tobytes() for sample in task.data(s).pixels} for s in parts}
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["val"]


def test_a_caption_spells_the_digits_row_by_row(task, batch):
    pixels, labels = task.data("val").pixels, task.data("val").labels
    by_pixels = {sample.numpy().tobytes(): int(label) for sample, label in zip(pixels, labels, strict=True)}
    for image, caption, places in zip(batch.image, batch.caption, batch.places, strict=True):
        digits = words(caption)[::2]
        assert 3 <= len(digits) <= 5
        corners = [tuple(place) for place in places.tolist() if place != [-1, -1]]
        seen = [image[0, y : y + SIDE, x : x + SIDE].numpy().tobytes() for y, x in corners]
        assert [WORDS[6 + by_pixels[sample]] for sample in seen] == digits
        cells = [((y - 1) // 10, (x - 1) // 10) for y, x in corners]
        assert cells == sorted(cells)
        between = ["beside" if a[0] == b[0] else "above" for a, b in pairwise(cells)]
        assert words(caption)[1::2] == between
        assert int(image.count_nonzero()) == sum(sum(value > 0 for value in sample) for sample in seen)


def test_an_image_is_a_function_of_its_number_and_train_of_the_runs_seed(task):
    data = task.data("train")
    assert torch.equal(data[[7, 3]].image[1], data[[3]].image[0])
    other = Caption()
    other.seed = 1
    other.prepare()
    assert not torch.equal(other.data("train")[[3]].image, data[[3]].image)
    assert torch.equal(other.data("test")[[3]].image, task.data("test")[[3]].image)


def test_the_truth_is_the_patches_that_a_digit_covers():
    places = torch.tensor([[[4, 8], [2, 23], [-1, -1]]])
    exact, between, nowhere = covered(places, CANVAS)[0].view(3, GRID, GRID)
    assert exact.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert between.nonzero().tolist() == [[row, column] for row in (0, 1, 2) for column in (6, 7)]
    assert not nowhere.any()


def test_a_feature_lies_over_its_own_patch(task):
    """Turn the image around, and the convolutions with it: the features are turned around."""
    model = task.model(make_attention).eval()
    image = torch.randint(0, 256, (1, 1, CANVAS, CANVAS), dtype=torch.uint8)
    with torch.no_grad():
        straight = model.features(image.float())
        for module in model.features.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(module.weight.flip(2, 3))
        turned = model.features(image.flip(2, 3).float())
    assert torch.allclose(straight, turned.flip(2, 3), atol=1e-4)


def test_maps_and_metrics_of_a_perfect_model(task, batch, monkeypatch):
    model = task.model(make_attention)
    truth = covered(batch.places, CANVAS)
    weights = torch.where(truth.any(-1, keepdim=True), truth / truth.sum(-1, keepdim=True).clamp_min(1), 1 / 64)
    monkeypatch.setattr(
        type(model),
        "greedy",
        lambda *_, need_weights=False: Decoded(batch.caption, weights.unsqueeze(1) if need_weights else None),
    )
    metrics = task.metrics()
    task.evaluate(model, batch, metrics)
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == {
        "exact_match": 1.0,
        "word_accuracy": 1.0,
    }
    drawn = task.maps(model, batch)[0]
    assert list(drawn.rows) == [*words(batch.caption[0]), "end"]
    assert drawn.grid == (8, 8)
    assert drawn.columns[9] == "row 2 column 2"
    assert torch.equal(drawn.image * 255, batch.image[0, 0].float())
    assert (drawn.weights[0] * drawn.truth).sum(-1)[:-1:2].tolist() == pytest.approx([1.0] * (len(drawn.rows) // 2))
    assert drawn.truth.any(-1).tolist() == [True, False] * (len(drawn.rows) // 2)
    assert task.texts(model, batch)[0] == drawn.title == " ".join(words(batch.caption[0]))


def test_one_wrong_word_is_no_exact_match(task, batch, monkeypatch):
    model, wrong = task.model(make_attention), batch.caption.clone()
    wrong[::2, 0] = 5
    monkeypatch.setattr(type(model), "greedy", lambda *_, **__: Decoded(wrong, None))
    metrics = task.metrics()
    task.evaluate(model, batch, metrics)
    assert float(metrics["exact_match"].compute()) == 0.5
    assert task.texts(model, batch)[0].endswith(f"(wrong: {' '.join(words(batch.caption[0]))})")


def test_a_picture_is_captioned_dark_digits_on_a_light_ground_too(task, batch, tmp_path):
    model = task.model(make_attention).eval()
    pixels = batch.image[0, 0]
    answers = []
    for name, of_file in (("a.png", pixels), ("b.png", 255 - pixels)):
        Image.fromarray(of_file.numpy()).resize((96, 96), Image.Resampling.NEAREST).save(tmp_path / name)
        with torch.no_grad():
            answers.append(task.predict(model, f" {tmp_path / name}\n"))
    assert answers[0].label == answers[1].label == task.texts(model, task.data("val")[[0]])[0].split(" (")[0]
    assert answers[0].probability == pytest.approx(math.prod(answers[0].written), rel=1e-5)
    assert len(answers[0].written) == len(answers[0].attention.rows)
    assert torch.equal(answers[0].attention.image, answers[1].attention.image)
    assert torch.equal(answers[0].attention.image * 255, pixels.float())


@pytest.mark.parametrize("text", ["three above seven", "folder", "a\0b", "a\nb", "text.png"])
def test_what_is_no_picture_is_refused_in_a_line(task, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("three above seven")
    with pytest.raises(UsageError, match=f"^predict: {re.escape(repr(text))}: cannot be read as a picture: [^\n]+$"):
        task.predict(task.model(make_attention), text)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of one colour in Flickr8k's layout, and one that stands twice."""
    (tmp_path / "Images").mkdir()
    lines = ["image,caption"]
    for number in range(12):
        (name, colour), shade = list(COLOURS.items())[number % 4], number // 4
        Image.new("RGB", (20 + number, 30), tuple(max(0, c - shade) for c in colour)).save(
            tmp_path / "Images" / f"{number}.png"
        )
        lines += [f'{number}.png,"A {name} wall , nothing else ."', f"{number}.png,all is {name}"]
    Image.new("RGB", (9, 9), COLOURS["red"]).save(tmp_path / "Images" / "again.png")
    lines.append("again.png,A red wall")
    (tmp_path / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_a_folder_in_flickr8ks_layout_is_read(folder):
    task = prepared(images=folder, size=16, min_count=3)
    sizes = {split: len(task.data(split)) for split in ("train", "val", "test")}
    assert sizes["val"] + sizes["test"] in (2, 3)
    assert sizes["train"] in (20, 21)  # each caption is an example, of an image the first
    assert task.primary == "bleu"
    assert not task.fresh
    assert {"all", "is", "wall"} <= set(task.words)
    batch = task.data("train")[list(range(sizes["train"]))]
    assert batch.image.shape == (sizes["train"], 3, 16, 16)
    says = {task._text(row) for row in batch.caption}
    assert says & {"all is red", "all is green"}
    assert batch.references.shape[1] == 2
    pairs = {s: {image.numpy().tobytes() for image in task.data(s).images} for s in ("train", "val", "test")}
    assert not pairs["train"] & pairs["val"]
    assert not pairs["train"] & pairs["test"]


def test_equal_images_are_in_one_split(folder):
    for seed in range(5):
        task = prepared(images=folder, size=16, data_seed=seed)
        images = [(split, image) for split in ("train", "val", "test") for image in task.data(split).images]
        reds = [split for split, image in images if image[:, 0, 0].tolist() == [250, 10, 10]]
        assert len(reds) == 2
        assert len(set(reds)) == 1


def test_a_model_of_own_images_trains_measures_and_predicts_with_the_runs_words(folder, tmp_path):
    task = prepared(images=folder, size=16, width=8, hidden_dim=4, embed_dim=4)
    model, metrics = task.model(make_attention), task.metrics()
    task.loss(model, task.data("train")[[0, 1, 2]]).backward()
    task.evaluate(model.eval(), task.data("val")[[0]], metrics)
    assert set(metrics) == {"exact_match", "word_accuracy", "bleu"}
    assert task.maps(model, task.data("val")[[0]])[0].truth is None
    task.save(tmp_path)
    again = Caption(images=tmp_path / "gone", size=16, width=8, hidden_dim=4, embed_dim=4)
    again.restore(tmp_path)
    assert again.words == task.words
    with torch.no_grad():
        answer = again.predict(model, str(folder / "Images" / "3.png"))
    assert answer.attention.image.shape == (16, 16, 3)
    for text in ("{", '{"a": 1}', '["a", "wall"]'):
        (tmp_path / "vocabulary.json").write_text(text)
        with pytest.raises(UsageError, match=r"vocabulary\.json: cannot be read"):
            again.restore(tmp_path)


def test_a_caption_is_right_if_it_is_any_of_the_images(folder, monkeypatch):
    task = prepared(images=folder, size=16, min_count=1)
    model, batch = task.model(make_attention), task.data("val")[[0]]
    last = batch.references[:, int(batch.references.any(2).sum()) - 1]
    monkeypatch.setattr(type(model), "greedy", lambda *_, **__: Decoded(last, None))
    metrics = task.metrics()
    task.evaluate(model, batch, metrics)
    assert float(metrics["exact_match"].compute()) == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"captions\.txt cannot be read: No such file"),
        ("file,caption\na.png,a", "begins with the line `image,caption`"),
        ("image,caption\na.png", r"captions\.txt, line 2: expected `image,caption`, got 'a\.png'"),
        ("image,caption\na.png,...", "line 2: expected"),
        ("image,caption\na.png,a wall", r"Images/a\.png: cannot be read as a picture: No such file"),
        ("image,caption\n", "0 different images; three splits need at least 3"),
    ],
)
def test_a_folder_that_cannot_be_read_is_a_line(tmp_path, text, says):
    if text is not None:
        (tmp_path / "captions.txt").write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        prepared(images=tmp_path)
    assert "\n" not in str(error.value)


def test_words_are_lower_case_without_marks():
    assert split_words("A dog 's ball , isn't it ?") == ["a", "dog", "'s", "ball", "isn't", "it"]


def test_quotes_and_commas_in_a_captions_file(tmp_path):
    (tmp_path / "captions.txt").write_text('image,caption\na.jpg,"one, two ""three"""\na.jpg,four\n')
    assert read_captions(tmp_path) == {"a.jpg": [["one", "two", "three"], ["four"]]}


@pytest.mark.parametrize("options", [{"least": 6}, {"most": 10}, {"size": 48}, {"width": 0}, {"max_words": 0}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Caption(**options)
