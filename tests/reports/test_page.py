"""The page, opened in a browser."""

import json
import re

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from attnbench.reports.page import PLACE, curves, pictures
from attnbench.reports.runs import read_all


def draw_pictures(folder, steps, examples=2):
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            for example in range(examples):
                image = np.full((8, 700 if example else 12, 3), step % 256, dtype=np.uint8)
                writer.add_image(f"attention/{example}", image, step, dataformats="HWC")


@pytest.fixture
def report(tmp_path, make_run, points, cli):
    for seed in range(2):
        for name, accuracy in (("soft", 0.9), ("uniform", 0.1)):
            values = (accuracy / 2, accuracy + seed / 100)
            folder = make_run(name, seed, values[-1], curve=points(*values), parameters=1000 if seed else 2000)
            draw_pictures(folder, (100, 200))
    make_run("<img src=x onerror=alert(1)>", 0, 0.5, scoring="</script>", folder="hostile")
    said = cli("compare", "runs", "--html", "report.html")
    assert said.code == 0, said.err
    return tmp_path / "report.html"


def embedded(report):
    return json.loads(re.search(r'id="data">(.*?)</script>', report.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_the_page_holds_everything_and_asks_the_network_for_nothing(report):
    text = report.read_text(encoding="utf-8")
    (table,) = embedded(report)["tables"]

    assert PLACE not in text
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text.split("<script")[0])
    assert [row["label"] for row in table["rows"]][:1] == ["soft-additive"]
    assert [len(row["pictures"]) for row in table["rows"]] == [2, 0, 2]


def test_the_page_says_when_where_of_what_and_by_which_command_it_was_made(report):
    data = embedded(report)

    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", data["made"])
    assert data["place"] == str(report.parent)
    assert data["command"] == "python -m attnbench compare runs --html report.html"
    assert data["versions"] == "attnbench 0.1.0"


def test_text_from_a_run_folder_cannot_end_the_script(report):
    assert report.read_text(encoding="utf-8").count("</script>") == 2


def test_a_curve_is_the_mean_over_seeds_and_a_run_that_ended_counts_on(tmp_path, make_run, points):
    make_run("soft", 0, curve=points(0.2, 1.0))
    make_run("soft", 1, curve=points(0.4, 0.6, 0.8))
    runs, _ = read_all([tmp_path / "runs"])

    drawn = curves(runs)["val/exact_match"]

    assert [point[0] for point in drawn] == [100, 200, 300]
    assert [point[3] for point in drawn] == pytest.approx([0.3, 0.8, 0.9])
    assert drawn[2][4:] == [0.8, 1.0]


def test_of_many_steps_the_first_the_last_and_some_between_are_shown(tmp_path):
    draw_pictures(tmp_path, range(0, 300, 10), examples=1)
    steps = list(pictures(tmp_path))

    assert (steps[0], steps[-1], len(steps)) == (0, 290, 12)


def test_a_damaged_event_file_costs_the_page_its_pictures_only(tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\x00\x01garbage")

    assert pictures(tmp_path) == {}


def groups(page):
    return page.locator("tbody tr td:first-child").all_inner_texts()


def test_the_page_sorts_slides_and_opens_a_configuration(page):
    assert groups(page)[0] == "soft-additive"
    page.get_by_role("button", name="mean").click()
    assert groups(page)[0] == "uniform-additive"
    page.get_by_role("button", name="mean").press("Enter")
    assert groups(page)[0] == "soft-additive"

    slider = page.get_by_label("training step")
    before = page.locator(".wall img").first.get_attribute("src")
    slider.focus()
    slider.press("ArrowLeft")
    assert page.locator("output").inner_text() == "step 100"
    assert page.locator(".wall img").first.get_attribute("src") != before

    page.locator("circle").first.press("Enter")
    assert "max_epochs: 1" in page.locator("#configuration pre").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#configuration").is_visible()


def test_the_page_is_as_wide_as_its_window(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_column_is_in_sight_on_a_window_of_1280(page):
    hidden = page.evaluate("(t => t.scrollWidth - t.clientWidth)(document.querySelector('.scroll'))")
    assert hidden == 0 or page.viewport_size["width"] < 1280


def test_buttons_copy_the_table(page):
    for name, begins in (("copy CSV", "task,metric,attention,"), ("copy LaTeX", "% \\usepackage{booktabs}")):
        page.evaluate("addEventListener('copy', () => { window.taken = String(document.activeElement.value); })")
        page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="copied").first.wait_for()
        assert page.evaluate("window.taken").startswith(begins)


def test_a_picture_opens_at_its_own_size_or_larger(page):
    page.locator(".zoom").first.click()
    large = page.locator("#close-up img")
    assert large.is_visible()
    assert large.evaluate("image => image.clientWidth >= image.naturalWidth")


def test_a_wide_picture_has_a_row_of_its_own(page):
    page.locator("section .bar select").last.select_option(index=1)
    page.locator(".wall .wide").first.wait_for()
    width = page.locator(".wall img").first.evaluate("image => image.clientWidth")
    assert width == 700 or width > page.locator(".wall").evaluate("wall => wall.clientWidth") - 40


def test_what_comes_from_a_run_folder_is_shown_as_text(page):
    assert "<img src=x onerror=alert(1)>-</script>" in groups(page)
    assert page.locator("main img:not(.zoom img)").count() == 0
