"""The laws of tasks are themselves tested: for each a task that breaks it, and that it must catch."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from looking import Alike, Beside, Look, Seen, Short, Sparse
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, Task
from attnbench.contract import check, laws_for
from attnbench.errors import UsageError
from attnbench.loading import Component
from attnbench.registry import Registry


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Rows(Dataset[Pair]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: list[int]) -> Pair:
        return Pair(self.x[indices], self.x[indices].mean(dim=(1, 2)))


class Mean(nn.Module):
    def __init__(self, make_attention: Any) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 4))
        self.attention = make_attention(4, 4, 4)
        self.out = nn.Linear(self.attention.out_dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        query = self.query.expand(len(x), -1, -1)
        context, weights = self.attention(query, x, x, need_weights=self.attention.has_weights)
        return self.out(context).flatten(), weights


class Means(Task):
    """A task that obeys every law: the mean of a few numbers."""

    primary = "error"
    mode = "min"
    goal = 0.0

    def __init__(self, *, data_seed: int = 0) -> None:
        self.data_seed = data_seed

    def prepare(self) -> None:
        x = torch.randn(60, 5, 4, generator=torch.Generator().manual_seed(self.data_seed))
        self.parts = {"train": x[:40], "val": x[40:50], "test": x[50:]}

    def data(self, split: Any) -> Dataset[Any]:
        return Rows(self.parts[split])

    def model(self, make_attention: Any) -> nn.Module:
        return Mean(make_attention)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch.x)[0] - batch.y).square().mean()

    def metrics(self) -> dict[str, Any]:
        from torchmetrics import MeanMetric

        return {"error": MeanMetric()}

    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        loss = self.loss(model, batch)
        metrics["error"].update(loss.detach(), len(batch.x))
        return loss

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        _, weights = model(batch.x)
        return [] if weights is None else [AttentionMap(w, ["mean"], list("abcde")) for w in weights]


class Leaking(Means):
    def prepare(self) -> None:
        super().prepare()
        self.parts["test"] = self.parts["train"][:10]


class Relabelled(Means):
    """Its test asks what its training did, with another answer, which its own `question` tells."""

    def prepare(self) -> None:
        super().prepare()
        self.parts["test"] = self.parts["train"][:10]

    def data(self, split: Any) -> Dataset[Any]:
        return Numbered(self.parts[split], split)

    def question(self, batch: Any) -> Tensor:
        return batch.x


class Numbered(Rows):
    def __init__(self, x: Tensor, split: str) -> None:
        super().__init__(x)
        self.shift = float(len(split))

    def __getitem__(self, indices: list[int]) -> Pair:
        pair = super().__getitem__(indices)
        return Pair(pair.x, pair.y + self.shift)


class Untrue(Means):
    """It marks one key too many as the answer's place."""

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        return [replace(drawn, truth=torch.ones(1, 6, dtype=torch.bool)) for drawn in super().maps(model, batch)]


class OneByOne(Means):
    """Its host asks two queries, each by itself."""

    def model(self, make_attention: Any) -> nn.Module:
        return Twice(make_attention)

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        _, weights = model(batch.x)
        return [] if weights is None else [AttentionMap(w, ["mean", "again"], list("abcde")) for w in weights]


class Twice(Mean):
    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        (answer, weights), (_, others) = super().forward(x), super().forward(x)
        return answer, None if weights is None else torch.cat([weights, others], dim=2)


class Drifting(Means):
    """Its data hang on the run's seed."""

    def prepare(self) -> None:
        super().prepare()
        self.parts["train"] = torch.randn(40, 5, 4)


class Beyond(Means):
    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        loss = super().evaluate(model, batch, metrics)
        metrics["error"].update(torch.tensor(-100.0))
        return loss


class Mislabelled(Means):
    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        _, weights = model(batch.x)
        return [AttentionMap(w, ["mean"], list("abc")) for w in weights]


class Misplaced(Means):
    """Its grid has six places for five keys."""

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        return [replace(drawn, grid=(2, 3)) for drawn in super().maps(model, batch)]


class Hasty(Means):
    """Of a batch that was decoded it draws the weights of the first example for all."""

    def decode(self, model: nn.Module, batch: Any) -> Any:
        weights = model(batch.x)[1]
        return Decoded(batch.x, batch.y, None if weights is None else weights[:1].expand_as(weights))

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        if not isinstance(batch, Decoded) or batch.weights is None:
            return super().maps(model, batch)
        return [AttentionMap(w, ["mean"], list("abcde")) for w in batch.weights]


class Decoded(NamedTuple):
    x: Tensor
    y: Tensor
    weights: Tensor | None


class Demanding(Means):
    """It asks for weights that an attention may not have."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        model.attention(model.query, batch.x[:1], batch.x[:1])  # type: ignore[operator, union-attr]
        return super().loss(model, batch)


class Backwards(Means):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return -super().loss(model, batch).clamp(max=1e3) + 2 * super().loss(model, batch).detach()


class Moody(Means):
    """What it measures hangs on how often it was asked."""

    asked = 0

    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        Moody.asked += 1
        metrics["error"].update(torch.tensor(float(Moody.asked)))
        return super().evaluate(model, batch, metrics)


class Unweighted(Means):
    """Its metric is the mean of the batches' means, whatever their sizes."""

    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        loss = self.loss(model, batch)
        metrics["error"].update(loss.detach())
        return loss


class Summed(Means):
    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        return super().evaluate(model, batch, metrics) * len(batch.x)


class Waking(Means):
    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        model.train()
        return super().evaluate(model, batch, metrics)


class Sharing(Means):
    kept: Any = None

    def metrics(self) -> dict[str, Any]:
        self.kept = self.kept or super().metrics()
        return dict(self.kept)


class Sorting(Means):
    def data(self, split: Any) -> Dataset[Any]:
        rows = super().data(split)

        class Sorted(Rows):
            def __getitem__(self, indices: list[int]) -> Pair:
                return super().__getitem__(sorted(indices))

        return Sorted(rows.x)  # type: ignore[attr-defined]


class Hopeless(Means):
    floor = -1.0


class Noisy(Means):
    """Its validation and test are altered at random when they are asked for."""

    def data(self, split: Any) -> Dataset[Any]:
        rows = super().data(split)

        class Altered(Rows):
            def __getitem__(self, indices: list[int]) -> Pair:
                return Pair(self.x[indices] + torch.randn(5, 4), self.x[indices].mean(dim=(1, 2)))

        return rows if split == "train" else Altered(rows.x)  # type: ignore[attr-defined]


class Halved(Means):
    """What it evaluates is the first half of a batch."""

    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        loss = super().evaluate(model, batch, metrics)
        kept = (len(batch.x) + 1) // 2
        return self.loss(model, Pair(batch.x[:kept], batch.y[:kept])) + 0 * loss


class Personal(Means):
    """Each seed of a run has a test of its own."""

    def prepare(self) -> None:
        super().prepare()
        self.parts["test"] = torch.randn(10, 5, 4, generator=torch.Generator().manual_seed(10 + self.seed))


class Deaf(Means):
    """It draws its training data anew at each step, and all seeds of a run draw the same."""

    fresh = True


class Unsaved(Means):
    """A layer of its model stands in a list, which saves nothing."""

    def model(self, make_attention: Any) -> nn.Module:
        model = Mean(make_attention)
        model.layers = [nn.Linear(1, 1)]  # type: ignore[assignment]
        return model

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        answer = model.layers[0](model(batch.x)[0].unsqueeze(1))  # type: ignore[index, operator]
        return (answer.squeeze(1) - batch.y).square().mean()


class Reversed(Means):
    """Its maps are those of the batch from behind."""

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        return super().maps(model, batch)[::-1]


class Inverted(Means):
    """Its error is larger where it is right."""

    def evaluate(self, model: nn.Module, batch: Any, metrics: Any) -> Tensor:
        loss = self.loss(model, batch)
        metrics["error"].update(1 / (0.01 + loss.detach()), len(batch.x))
        return loss


class Blank(Means):
    excused: ClassVar[Mapping[str, str]] = {"splits": "  "}


BROKEN_TASKS: Mapping[str, type[Any]] = {
    "declarations": Blank,
    "splits": Leaking,
    "workers": Drifting,
    "metrics": Beyond,
    "batches": Unweighted,
    "seeds": Personal,
    "tokens": Seen,
    "restored": Unsaved,
    "maps": Mislabelled,
    "decoding": Hasty,
    "slots": Demanding,
    "learns": Backwards,
    "checkpoints": Moody,
}


@pytest.mark.parametrize("law", sorted(BROKEN_TASKS))
def test_a_task_that_breaks_a_law_is_caught_and_a_good_one_is_not(law: str, registry: Registry) -> None:
    for cls, status in ((BROKEN_TASKS[law], "broken"), (Means, "passed")):
        component = Component("task", "means", cls, __file__)
        finding = check(component, Registry({**registry.components, ("task", "means"): component}), laws=[law])[0]
        assert finding.status == status, finding
        assert finding.detail or status == "passed"


def test_a_grid_of_other_places_than_the_keys_breaks_the_law_of_maps(registry: Registry) -> None:
    finding = check(Component("task", "mine", Misplaced, __file__), registry, laws=["maps"])[0]
    assert finding.status == "broken"
    assert "a grid of 2 x 3 for 5 keys" in finding.detail


@pytest.mark.parametrize(
    ("cls", "law", "says"),
    [
        (Relabelled, "splits", "10 of 40 questions of train stand in test too"),
        (Untrue, "maps", r"the truth is \[1, 6\] torch.bool, not \[1, 5\] of bools"),
        (Untrue, "slots", r"an attention that goes by places: the truth is \[1, 6\]"),
        (OneByOne, "slots", "hand it all queries so far"),
        (Hopeless, "metrics", "the goal 0.0 is no better than the floor -1.0"),
        (Summed, "batches", "`evaluate` of 7 examples, against the mean"),
        (Halved, "batches", "`evaluate` of 7 examples, against the mean"),
        (Noisy, "batches", "of 'val', .* asked again they are others"),
        (Deaf, "seeds", "the same for task.seed = 0 and 1"),
        (Reversed, "maps", "map 0, against those of the example alone"),
        (Beside, "tokens", "truth is the place that holds the answer"),
        (Alike, "tokens", "the slice longer has the same sequences as the task"),
        (Short, "tokens", "predict answers"),
        (Inverted, "learns", "error of that batch goes from"),
        (Waking, "batches", "leaves the model in training"),
        (Sharing, "batches", "the same error at each call"),
        (Sorting, "batches", r"data\[\[3, 1, 4, 0\]\] is not those examples in that order"),
    ],
)
def test_a_law_says_what_is_wrong_with_a_task(cls: type[Any], law: str, says: str, registry: Registry) -> None:
    finding = check(Component("task", "means", cls, __file__), registry, laws=[law])[0]
    assert finding.status == "broken"
    assert re.search(says, finding.detail), finding.detail


@pytest.mark.parametrize("cls", [Look, Sparse])
def test_a_good_next_token_task_obeys_every_law(cls: type[Any], registry: Registry) -> None:
    component = Component("task", "look", cls, __file__)
    findings = check(component, Registry({**registry.components, ("task", "look"): component}))
    assert not [finding for finding in findings if finding.status == "broken"]


def test_a_task_is_checked_with_options_of_ones_own(registry: Registry) -> None:
    class Counted(Means):
        def __init__(self, *, kept: int = 40) -> None:
            super().__init__()
            self.kept = kept

        def prepare(self) -> None:
            super().prepare()
            self.parts["train"] = self.parts["train"][: self.kept]

    component = Component("task", "means", Counted, __file__)
    assert check(component, registry, laws=["splits"], options={"kept": 7})[0].detail.startswith("7 train")
    with pytest.raises(UsageError, match=r"task\.keep"):
        check(component, registry, laws=["splits"], options={"keep": 7})


class Offline(Means):
    tried = 0

    def prepare(self) -> None:
        Offline.tried += 1
        raise OSError("no network")


def test_every_law_has_a_task_that_breaks_it() -> None:
    assert set(BROKEN_TASKS) == set(laws_for("task"))


def test_a_task_whose_data_cannot_be_had_is_skipped_and_says_why(registry: Registry) -> None:
    Offline.tried = 0
    findings = check(Component("task", "mine", Offline, __file__), registry)
    assert {finding.status for finding in findings if finding.law != "declarations"} == {"skipped"}
    assert all("no network" in finding.detail for finding in findings if finding.law != "declarations")
    assert Offline.tried <= 2  # the law of checkpoints makes a run of its own
