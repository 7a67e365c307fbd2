"""The suite is itself tested: for each law a component that breaks it, and that the law must catch."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import Attention, AttentionMap, Task, causal_mask, hide_masked, masked_softmax
from attnbench.contract import LAWS, check, laws_for, written_in
from attnbench.contract.findings import Finding, show_laws
from attnbench.contract.harness import BilinearScore, PlainAttention
from attnbench.errors import UsageError
from attnbench.loading import Component
from attnbench.registry import Registry


class Good(Attention):
    """A weighted mean that obeys every law; each broken component below differs from it in one thing."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.W = nn.Linear(query_dim, key_dim, bias=False)
        self.out_dim = value_dim

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return self.W(query) @ key.mT

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return masked_softmax(scores, mask)

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        key, value = hide_masked(query, key, value, mask, causal=causal)
        mask = causal_mask(mask, query, causal)
        weights = self.weigh(self.scores(query, key), mask)
        return self.mix(weights, value, query), weights.unsqueeze(1) if need_weights else None

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights @ value


class Undeclared(Good):
    excused: ClassVar[Mapping[str, str]] = {"gravity": "it floats"}


class Unnamed(Good):
    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        if query_dim > 64:
            raise ValueError("these widths do not fit")
        super().__init__(query_dim, key_dim, value_dim)


class Squeezed(Good):
    def forward(self, *given, **options):  # type: ignore[no-untyped-def]
        context, weights = super().forward(*given, **options)
        return context, None if weights is None else weights.squeeze(1)


class Unnormalised(Good):
    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return 0.9 * masked_softmax(scores, mask)


class D2l(Good):
    """The masked softmax of "Dive into Deep Learning": no float16 holds -1e6, and an empty row attends all alike."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores.softmax(-1) if mask is None else scores.masked_fill(~mask, -1e6).softmax(-1)


class Strict(Good):
    """It meets what was computed in one number type with what comes in another."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return torch.lerp(super().mix(weights, value, query), torch.zeros_like(value[:, :1]), 0.1)


class Unmasked(Good):
    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        return super().forward(query, key, value, None, need_weights=need_weights)


class Unhidden(Good):
    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        weights = self.weigh(self.scores(query, key), mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Counting(Good):
    """It divides by the number of keys, padding included."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights @ value / value.shape[1]


class Ordered(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key) + torch.arange(key.shape[1], device=key.device)


class Batched(Good):
    """It takes the mean over the batch from the queries."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query - query.mean(dim=0, keepdim=True), key)


class Ahead(Good):
    """What it gives depends on the mean of all queries."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return (weights @ value) * query.mean(dim=(1, 2), keepdim=True)


class Silent(Good):
    def forward(self, *given, **options):  # type: ignore[no-untyped-def]
        return super().forward(*given, **options)[0], None


class Forked(Good):
    """The path without weights forgets something."""

    def forward(self, *given, need_weights=True, **options):  # type: ignore[no-untyped-def]
        context, weights = super().forward(*given, **options)
        return (context, weights) if need_weights else (1.01 * context, None)


class Detached(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key.detach())


class Idle(Good):
    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.unused = nn.Parameter(torch.ones(3))


class Overwriting(Good):
    def forward(self, query, *given, **options):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            query += 1
        return super().forward(query, *given, **options)


class Overflowing(Good):
    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        powers = scores.exp() if mask is None else scores.exp() * mask
        total = powers.sum(dim=-1, keepdim=True)
        return powers / total.masked_fill(total == 0, 1.0)


class Lenient(Good):
    def forward(self, query, key, value, mask=None, **options):  # type: ignore[no-untyped-def]
        return super().forward(query, key, value, None if mask is None else mask != 0, **options)


class Chancy(Good):
    calls = 0

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        Chancy.calls += 1
        return super().scores(query, key) * Chancy.calls


class Forgetful(Good):
    """What it begins with is no parameter and no buffer."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.scale = float(torch.rand(()))

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return self.scale * super().scores(query, key)


class Stashing(Good):
    """Weights kept on self, with their graph: a deep copy is refused."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        self.weights = super().weigh(scores, mask)
        return self.weights


class Branching(Good):
    """It looks at numbers in Python."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        found = super().scores(query, key)
        return found if float(found.detach().sum()) > 0 else 1 * found


class Fined(Good):
    def penalty(self, weights: Tensor) -> Tensor:
        return weights.detach().square().sum()


class Picky(Attention):
    """It goes wrong with some scoring functions alone: it takes the path of the factors for the score."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: Any) -> None:
        super().__init__()
        self.score, self.out_dim = score(query_dim, key_dim), value_dim

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        key, value = hide_masked(query, key, value, mask, causal=causal)
        mask = causal_mask(mask, query, causal)
        factored = self.score.factor(query, key)
        scores = self.score(query, key)
        if factored is None and not need_weights:
            scores = 2 * scores
        weights = masked_softmax(scores, mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Unbroadcast(BilinearScore):
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.bmm(query @ self.W, key.mT) if query.dim() == 3 else query @ self.W @ key.mT


class Misfactored(BilinearScore):
    def factor(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * query @ self.W, key


BROKEN: Mapping[str, type[Any]] = {
    "declarations": Undeclared,
    "widths": Unnamed,
    "shapes": Squeezed,
    "dtypes": D2l,
    "autocast": Strict,
    "rows": Unnormalised,
    "empty_rows": D2l,
    "masked_keys": Unmasked,
    "masked_nan": Unhidden,
    "padding": Counting,
    "permutation": Ordered,
    "examples": Batched,
    "causal": Ahead,
    "need_weights": Forked,
    "gradients": Detached,
    "parameters": Idle,
    "inputs_unwritten": Overwriting,
    "extremes": Overflowing,
    "bad_masks": Lenient,
    "seed": Chancy,
    "state_dict": Forgetful,
    "copies": Stashing,
    "compiles": Branching,
    "exports": Branching,
    "penalty": Fined,
    "scorings": Picky,
}
BROKEN_SCORES: Mapping[str, type[Any]] = {"broadcasting": Unbroadcast, "factors": Misfactored}


@pytest.fixture(autouse=True)
def plain_signatures() -> Iterator[None]:
    """Shapes are a law here; the checker of signatures would speak first, and no compiler sees through it."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def found(cls: type[Any], registry: Registry, law: str, kind: str = "attention") -> Any:
    return check(Component(kind, "mine", cls, __file__), registry, laws=[law])[0]


def test_every_law_has_a_component_that_breaks_it() -> None:
    assert set(BROKEN) == set(laws_for("attention"))
    assert set(BROKEN) | set(BROKEN_SCORES) >= set(laws_for("scoring"))
    assert set(BROKEN_TASKS) == set(laws_for("task"))


@pytest.mark.parametrize("law", sorted(laws_for("attention")))
def test_a_component_that_breaks_a_law_is_caught_and_a_good_one_is_not(law: str, registry: Registry) -> None:
    finding = found(BROKEN[law], registry, law)
    assert finding.status == "broken", finding
    assert finding.detail
    good = found(PlainAttention if law == "scorings" else Good, registry, law)
    assert good.status == "passed", good


@pytest.mark.parametrize("law", sorted(BROKEN_SCORES))
def test_a_score_that_breaks_a_law_is_caught_and_a_good_one_is_not(law: str, registry: Registry) -> None:
    assert found(BROKEN_SCORES[law], registry, law, "scoring").status == "broken"
    assert found(BilinearScore, registry, law, "scoring").status == "passed"


def test_asked_for_weights_it_has_none_of_a_class_may_not_be_silent(registry: Registry) -> None:
    assert "None" in found(Silent, registry, "need_weights").detail


@pytest.mark.parametrize("law", ["need_weights", "empty_rows"])
def test_what_is_wrong_at_equal_widths_alone_is_caught(law: str, registry: Registry) -> None:
    class Fused(Good):
        """Its path without weights is wrong, where another kernel would be chosen."""

        def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
            context, weights = super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)
            other = not need_weights and query.shape[-1] == key.shape[-1] == value.shape[-1]
            return context + float(other), weights

    finding = found(Fused, registry, law)
    assert finding.status == "broken"
    assert "widths=(8, 8, 8)" in finding.detail


def test_the_case_that_is_shown_is_the_smallest(registry: Registry) -> None:
    assert found(Unnormalised, registry, "rows").detail.startswith("B=1 Q=1 K=1 mask=none")
    assert found(Ordered, registry, "permutation").detail.startswith("B=1 Q=1 K=2")


class Excused(Ordered):
    excused: ClassVar[Mapping[str, str]] = {"permutation": "order is the point"}


def test_a_declared_excuse_is_shown_with_its_reason(registry: Registry) -> None:
    finding = found(Excused, registry, "permutation")
    assert (finding.status, finding.detail) == ("excused", "order is the point")


class Needless(Good):
    excused: ClassVar[Mapping[str, str]] = {"permutation": "order is the point"}


def test_an_excuse_that_is_not_needed_is_broken(registry: Registry) -> None:
    finding = found(Needless, registry, "permutation")
    assert (finding.status, finding.detail) == ("broken", "excused, yet it holds: take the excuse away")


def test_an_error_in_a_component_is_a_broken_law_with_its_case(registry: Registry) -> None:
    class Raising(Good):
        def scores(self, query: Tensor, key: Tensor) -> Tensor:
            if key.shape[1] > 1:
                raise RuntimeError("only one key")
            return super().scores(query, key)

    assert found(Raising, registry, "rows").detail.startswith("B=1 Q=1 K=2 mask=none")
    assert "RuntimeError: only one key" in found(Raising, registry, "rows").detail


def test_checking_leaves_the_random_state_alone(registry: Registry) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found(Good, registry, "rows")
    assert torch.equal(torch.rand(3), expected)


# Tasks


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
        metrics["error"].update(loss.detach())
        return loss

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        _, weights = model(batch.x)
        return [] if weights is None else [AttentionMap(w, ["mean"], list("abcde")) for w in weights]


class Leaking(Means):
    def prepare(self) -> None:
        super().prepare()
        self.parts["test"] = self.parts["train"][:10]


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


class Blank(Means):
    excused: ClassVar[Mapping[str, str]] = {"splits": "  "}


BROKEN_TASKS: Mapping[str, type[Any]] = {
    "declarations": Blank,
    "splits": Leaking,
    "workers": Drifting,
    "metrics": Beyond,
    "maps": Mislabelled,
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


class Offline(Means):
    def prepare(self) -> None:
        raise OSError("no network")


def test_a_task_whose_data_cannot_be_had_is_skipped_and_says_why(registry: Registry) -> None:
    finding = found(Offline, registry, "splits", "task")
    assert finding.status == "skipped"
    assert "no network" in finding.detail


# What ships

SHIPPED = [(c.kind, c.name) for kind in LAWS for c in Registry.load().of(kind) if c.origin.endswith("(shipped)")]


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=[f"{k}={n}" for k, n in SHIPPED])
def test_what_ships_obeys_the_laws(kind: str, name: str, registry: Registry) -> None:
    findings = check(registry.get(kind, name), registry)
    assert not [finding for finding in findings if finding.status == "broken"]


# The command


def test_check_prints_a_table_and_exits_with_0_when_all_holds(cli: Callable[..., Any]) -> None:
    said = cli("check", "dot", "last")
    assert said.code == 0
    assert "excused attention=last permutation: it takes the last key" in said.out
    assert "2 components" in said.out
    assert "0 broken" in said.out


def test_laws_that_are_skipped_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [Finding(law, "skipped", why) for law, why in (("a", "no data"), ("b", "no data"), ("c", "no time"))]
    show_laws({"task=mine": skipped, "task=other": [Finding(law, "passed") for law in "abc"]}, {})
    said = capsys.readouterr().out
    assert "skipped task=mine a, b: no data\nskipped task=mine c: no time\n" in said


def test_check_takes_a_file_and_exits_with_1_showing_the_smallest_case(
    cli: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(SystemExit) as ended:
        cli("check", "mine.py")
    out = capfd.readouterr().out
    assert ended.value.code == 1
    assert "BROKEN" in out
    assert "B=1 Q=1 K=1 mask=none" in out


MINE = '''
"""Half a mean."""
from attnbench import Attention, causal_mask, hide_masked, hookimpl, masked_softmax


class Half(Attention):
    """Its weights sum to a half."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.out_dim = value_dim

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
        key, value = hide_masked(query, key, value, mask, causal=causal)
        mask = causal_mask(mask, query, causal)
        weights = masked_softmax(query.new_zeros(query.shape[0], query.shape[1], key.shape[1]), mask) / 2
        return weights @ value, weights.unsqueeze(1) if need_weights else None


@hookimpl
def register_attention(register):
    """Contribute `half`."""
    register("half", Half)
'''


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing_of_this_name"], "nothing_of_this_name: no such component"),
        (["no.py"], "no.py: no such file"),
        (["scoring=multihed"], "no such component"),
        (["dot", "--device", "abacus"], "--device abacus"),
    ],
)
def test_check_refuses_what_it_cannot_check_in_one_line(
    cli: Callable[..., Any], arguments: list[str], says: str
) -> None:
    said = cli("check", *arguments)
    assert said.code == 2
    assert says in said.err


def test_check_says_why_a_file_does_not_load(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_this_name  # attnbench\n")
    said = cli("check", "mine.py")
    assert said.code == 2
    assert "nothing_of_this_name" in said.err


def test_check_says_why_a_file_brought_nothing(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(MINE)
    said = cli("check", "mine.py", "other.py")
    assert (said.code, said.err) == (
        2,
        "attnbench: attention=half: both mine.py and other.py register it; rename one of them\n",
    )
    monkeypatch.setenv("ATTNBENCH_DISABLE", "mine")
    said = cli("check", "mine.py")
    assert (said.code, said.err) == (2, "attnbench: mine.py: ATTNBENCH_DISABLE keeps plugin 'mine' out\n")


def test_check_takes_a_file_that_registers_a_class_from_elsewhere(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from attnbench import hookimpl\nfrom attnbench.plugins.attention.uniform import Uniform\n\n\n"
        "@hookimpl\ndef register_attention(register):\n    register('mean', Uniform)\n"
    )
    assert [component.name for component in written_in(Registry.load(file), file)] == ["mean"]
    with pytest.raises(UsageError, match="it brings no component"):
        written_in(registry, file)
