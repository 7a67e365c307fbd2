import torch

from attnbench import AttentionMap
from attnbench.reports.cells import Cell
from attnbench.reports.references import References, read, write


def cell(task):
    metrics = {"test/accuracy": [1.0]}
    more = {"curves": [], "cpu_seconds": [1.0], "parameters": 1, "state_size": None, "versions": {}}
    return Cell(task, "soft", ["attention=soft"], "", "test/accuracy", "max", 0.0, 1.0, [], 0.01, [0], metrics, **more)


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
