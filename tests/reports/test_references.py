import torch

from attnbench import AttentionMap
from attnbench.reports.cells import Cell
from attnbench.reports.references import References, read, write


def cell(task, arm="soft", accuracy=1.0):
    metrics = {"test/accuracy": [accuracy]}
    more = {"curves": [], "cpu_seconds": [1.0], "parameters": 1, "state_size": None, "versions": {}}
    return Cell(task, arm, [f"attention={arm}"], "", "test/accuracy", "max", 0.0, 1.0, [], 0.01, [0], metrics, **more)


def test_where_an_example_was_looked_at_is_read_as_it_was_written(tmp_path):
    truth = torch.tensor([[True, False, False, False]])
    weights = torch.tensor([[[0.25, 0.75, 0.0, 0.0]]])
    over_an_image = AttentionMap(weights, ["three"], list("abcd"), None, "title", truth, (2, 2), torch.eye(4))
    in_a_line = AttentionMap(torch.eye(2)[None], ["q", "r"], ["a", "b"], torch.eye(2).bool())
    written = {("caption", "soft"): over_an_image, ("recall", "soft"): in_a_line}
    write(tmp_path / "mine.json", References([cell("caption"), cell("recall")], {}, written))
    again, _ = read(tmp_path / "mine.json", {"caption": "", "recall": ""})
    assert again.looks.keys() == written.keys()
    for key, look in again.looks.items():
        for name, value in vars(written[key]).items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(getattr(look, name), value), name


def test_what_is_new_replaces_the_same_arm_of_the_same_task_and_all_else_is_kept():
    looks = {(task, "soft"): AttentionMap(torch.eye(2)[None], ["q", "r"], ["a", "b"]) for task in ("recall", "parity")}
    before = References([cell("recall"), cell("recall", "gla"), cell("parity")], {"soft": {512: 1.0}}, looks)
    new = References([cell("recall", "mla"), cell("recall", accuracy=0.5)], {"mla": {512: 2.0}, "soft": {512: 3.0}})

    updated = before.updated(new)

    kept = [(cell.task, cell.arm, cell.metrics["test/accuracy"]) for cell in updated.cells]
    assert kept == [
        ("recall", "soft", [0.5]),
        ("recall", "gla", [1.0]),
        ("recall", "mla", [1.0]),
        ("parity", "soft", [1.0]),
    ]
    assert updated.costs == {"soft": {512: 3.0}, "mla": {512: 2.0}}
    assert updated.looks.keys() == looks.keys()
