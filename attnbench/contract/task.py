"""The laws of tasks: their data, their measures, the slot of their host, and the checkpoints of a run."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.answers import AttentionMap
from attnbench.config import OptimizerConfig
from attnbench.contract.harness import (
    BilinearScore,
    ByPlace,
    Law,
    PlainAttention,
    Recalling,
    Subject,
    WeightlessAttention,
)
from attnbench.contract.requirements import agree, distribution, finite, require, trying
from attnbench.errors import UsageError
from attnbench.interfaces import Attention, Split, Task
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.sampling import Draws
from attnbench.schema import takes_score
from attnbench.sequences import NOWHERE
from attnbench.tokens import TokenTask

F32 = torch.float32
FRESH_EXAMPLES = 20_000  # of data without end, how many are compared with the other splits


def _host(task: Task, kind: type[Attention] = PlainAttention, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    fill: Any = kind

    def make_attention(query_dim: int, key_dim: int, value_dim: int) -> Attention:
        widths = (query_dim, key_dim, value_dim)
        made: Attention = fill(*widths, BilinearScore) if takes_score(fill) else fill(*widths)
        return made

    return task.model(make_attention)


def _batch(task: Task, split: Split, size: int) -> Any:
    data: Any = task.data(split)
    return data[list(range(min(size, len(data))))]


def _fields(batch: Any) -> list[Tensor]:
    return [field for field in (batch if isinstance(batch, tuple | list) else [batch]) if isinstance(field, Tensor)]


def _keys(task: Task, data: Any, size: int) -> Iterator[set[bytes]]:
    """Yield the questions of the first `size` examples of a split, without the zeros that pad them, by the thousand."""
    for start in range(0, size, 1000):
        yield set(_bytes(task.question(data[list(range(start, min(start + 1000, size)))])))


def _bytes(batch: Any) -> list[bytes]:
    fields = [field.numpy() for field in _fields(batch)]
    return [b"|".join(field[i].tobytes().rstrip(b"\0") for field in fields) for i in range(len(fields[0]))]


def splits(subject: Subject) -> str | None:
    """No example's question, whatever its answer, stands in two of train, validation and test."""
    task = subject.task
    seen: dict[Split, set[bytes]] = {}
    split: Split
    for split in ("test", "val", "train"):  # the largest last, since it is read to the first that it shares
        data: Any = task.data(split)
        endless = split == "train" and task.fresh
        seen[split] = set()
        for keys in _keys(task, data, min(len(data), FRESH_EXAMPLES) if endless else len(data)):
            for other, others in seen.items():
                shared = len(keys & others) if other != split else 0
                require(not shared, f"{shared} of {len(keys)} questions of {split} stand in {other} too")
            seen[split] |= keys
    return ", ".join(f"{len(seen[split])} {split}" for split in ("train", "val", "test"))


def seeds(subject: Subject) -> None:
    """Validation and test data are the same for every seed of a run; training data of `fresh` tasks are not."""
    first, second = subject.prepared(), subject.prepared()
    second.seed = first.seed + 1
    second.prepare()
    for split in ("train", "val", "test"):
        same = all(map(torch.equal, _fields(_batch(first, split, 8)), _fields(_batch(second, split, 8))))
        if split != "train":
            require(same, f"{split} differs between task.seed = 0 and 1: runs are measured on different data")
        elif first.fresh:
            require(
                not same,
                "training data, drawn anew at each step, are the same for task.seed = 0 and 1: draw by self.seed",
            )


def workers(subject: Subject) -> None:
    """The same options give the same data, whatever the run's seed and the number of workers."""
    from torch.utils.data import DataLoader

    def drawn(seed: int, count: int) -> list[list[Tensor]]:
        torch.manual_seed(seed)
        data: Any = subject.prepared().data("train")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            order = [list(range(i, min(i + 4, len(data)))) for i in range(0, min(16, len(data)), 4)]
            return [_fields(batch) for batch in DataLoader(data, sampler=order, batch_size=None, num_workers=count)]

    first = drawn(0, 0)
    for seed, count in ((1, 0), (2, 2)):
        for number, (mine, others) in enumerate(zip(drawn(seed, count), first, strict=True)):
            same = all(torch.equal(a, b) for a, b in zip(mine, others, strict=True))
            require(same, f"batch {number} differs with seed={seed} and {count} workers")


def metrics(subject: Subject) -> None:
    """The primary metric exists; metrics are finite, within their bounds, and the primary not beyond the goal."""
    task = subject.task
    if task.floor is not None:
        gain = task.goal - task.floor if task.mode == "max" else task.floor - task.goal
        require(gain > 0, f"mode={task.mode}, and the goal {task.goal} is no better than the floor {task.floor}")
    with torch.no_grad():
        metrics = task.metrics()
        require(task.primary in metrics, f"primary '{task.primary}' is not among the metrics: {', '.join(metrics)}")
        loss = task.evaluate(_host(task).eval(), _batch(task, "val", 8), metrics)
        finite([loss], "the loss")
        for name, metric in metrics.items():
            computed = metric.compute()
            if not isinstance(computed, Tensor) or computed.dim() > 0:
                require(name != task.primary, f"the primary metric {name} is not a single number")
                continue  # it is for `Task.figures`
            value = float(computed)
            require(math.isfinite(value), f"{name} is {value}")
            low, high = metric.plot_lower_bound, metric.plot_upper_bound
            require(low is None or value >= low, f"{name} is {value}, below {low}")
            require(high is None or value <= high, f"{name} is {value}, above {high}")
            if name == task.primary:
                within = value <= task.goal if task.mode == "max" else value >= task.goal
                require(within, f"{name} is {value}, beyond the goal {task.goal} at which nothing is left to gain")


def batches(subject: Subject) -> None:
    """How examples are batched changes no measure: order is kept, a loss is a mean, metrics add up over batches."""
    task = subject.task
    data: Any = task.data("val")
    split: Split
    for split in ("val", "test"):
        some: Any = task.data(split)
        order = [i % len(some) for i in (3, 1, 4, 0)]
        forth, back = (_bytes(task.question(some[asked])) for asked in (order, order[::-1]))
        says = f"of '{split}', data[{order}] is not those examples in that order, or asked again they are others"
        require(forth == back[::-1], says)
    with torch.no_grad():
        model = _host(task).eval()
        seven = [i % len(data) for i in range(7)]
        parts = [data[seven], data[seven[:2]], data[seven[2:]]]
        few, rest = (
            n if (terms := task.terms(batch)) is None else terms for batch, n in zip(parts[1:], (2, 5), strict=True)
        )
        for what, measure in (("loss", task.loss), ("evaluate", lambda m, b: task.evaluate(m, b, task.metrics()))):
            whole, first, second = (measure(model, batch).double() for batch in parts)
            says = f"`{what}` of 7 examples, against the mean over examples, or over `terms`, of 2 and of 5 of them"
            agree(whole, (few * first + rest * second) / (few + rest), says, F32)
        together, apart = task.metrics(), task.metrics()
        shared = [name for name, metric in together.items() if metric is apart[name]]
        require(not shared, f"`metrics` returns the same {', '.join(shared)} at each call: splits would add up")
        task.evaluate(model, data[seven[:4]], together)
        for part in (seven[:3], seven[3:4]):
            task.evaluate(model, data[part], apart)
        require(not model.training, "`evaluate` leaves the model in training")
        for name, metric in together.items():
            if isinstance(value := metric.compute(), Tensor):
                a, b = (x.nan_to_num(-1.0) for x in (apart[name].compute(), value))  # NaN of what none of them has
                agree(a, b, f"{name} of four examples in batches of 3 and 1", F32)


def tokens(subject: Subject) -> str | None:
    """Of a next-token task the truth tells the target, its own place does not; slices and predict fit."""
    task = subject.task
    if not isinstance(task, TokenTask):
        return "it is no next-token task"
    batch = _batch(task, "val", 200)
    own, target, truth = (x[batch.scored] for x in (batch.tokens, batch.targets, batch.truth))
    require(not _tells(own, target), "the token that stands at a scored place tells its target: nothing is looked for")
    found = batch.tokens.gather(1, batch.truth.clamp(min=0))[batch.scored]
    known = truth != NOWHERE
    if known.any():
        says = "targets differ where the same token stands at the truth: truth is the place that holds the answer"
        require(_tells(found[known], target[known]), says)
    plain, *others = task.variants()
    for name, other in zip(task.slices(), others, strict=True):
        other.prepare()
        same = all(map(torch.equal, *(one.generate(Draws(0, range(8)))[:3] for one in (plain, other))))
        require(not same, f"the slice {name} has the same sequences as the task")
    model = _host(task).eval()
    for i in batch.scored.any(dim=1).nonzero().flatten().tolist()[:2]:
        place = int(batch.scored[i].nonzero()[0])
        seen = batch.tokens[i : i + 1, : place + 1]
        text = task.separator.join(map(task.label, seen[0].tolist()))
        with torch.no_grad():
            try:
                encoded, answered = task.encode(text), task.predict(model, text).label
            except UsageError as error:
                return f"predict is not tried, for it refuses what labels write: {error}"
            if encoded != seen[0].tolist():
                return "predict is not tried, for labels do not write its tokens"
            written = task.label(int(model(seen)[0, -1].argmax()))
        require(answered.startswith(written), f"predict answers {answered!r} to {text!r}, and the model {written!r}")
    return None


def _tells(clue: Tensor, target: Tensor) -> bool:
    """Tell whether equal clues have equal targets, of which there are several."""
    pairs = set(zip(clue.tolist(), target.tolist(), strict=True))
    return len({first for first, _ in pairs}) == len(pairs) and len({second for _, second in pairs}) > 1


def restored(subject: Subject) -> None:
    """What the model's state_dict keeps is all there is: loaded into another model, it has the same loss."""
    task = subject.task
    batch, model = _batch(task, "val", 4), _host(task).eval()
    other = _host(task, seed=1).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        agree(task.loss(other, batch), task.loss(model, batch), "the loss of a reloaded model", F32)


def maps(subject: Subject) -> str | None:
    """Each map has a label for each row and column; its weights, a distribution over the keys, are its example's."""
    task = subject.task
    with torch.no_grad():
        maps = task.maps(_host(task).eval(), _batch(task, "val", 3))
        for number, drawn in enumerate(maps):
            with trying(f"map {number}"):
                _map(drawn)
        data: Any = task.data("val")
        for number, drawn in enumerate(maps if len(maps) == 3 else ()):
            [alone] = task.maps(_host(task).eval(), data[[number]])
            rows, columns = (min(x, y) for x, y in zip(drawn.weights.shape[1:], alone.weights.shape[1:], strict=True))
            mine, other = (weights[:, :rows, :columns] for weights in (drawn.weights, alone.weights))
            agree(mine, other, f"the weights of map {number}, against those of the example alone", F32)
        return None if maps else "it draws no maps"


def _map(drawn: AttentionMap) -> None:
    weights = drawn.weights
    require(weights.dim() == 3, f"the weights are {list(weights.shape)}, not [H, Q, K]")
    wanted = [weights.shape[0], len(drawn.rows), len(drawn.columns)]
    require(
        list(weights.shape) == wanted,
        f"{wanted[1]} row and {wanted[2]} column labels for weights {list(weights.shape)}",
    )
    if drawn.grid is not None:
        down, across = drawn.grid
        require(down * across == wanted[2], f"a grid of {down} x {across} for {wanted[2]} keys")
    mask = torch.ones(weights.shape[1:], dtype=torch.bool) if drawn.mask is None else drawn.mask
    require(mask.shape == weights.shape[1:], f"the mask is {list(mask.shape)} for weights {list(weights.shape)}")
    distribution(weights.unsqueeze(0), mask.unsqueeze(0), torch.float32)
    if drawn.truth is not None:
        says = f"the truth is {list(drawn.truth.shape)} {drawn.truth.dtype}, not {list(weights.shape[1:])} of bools"
        require(drawn.truth.shape == weights.shape[1:] and drawn.truth.dtype == torch.bool, says)


def decoding(subject: Subject) -> str | None:
    """Of a batch that `decode` has been through, metrics, loss, texts and maps are those of the batch itself."""
    task = subject.task
    if type(task).decode is Task.decode:
        return "it does not decode"
    from attnbench.training.batches import first_examples  # which imports Lightning

    with torch.no_grad():
        model, batch = _host(task).eval(), _batch(task, "val", 5)
        decoded = task.decode(model, batch)
        for what, (mine, other) in {
            "a batch": (batch, decoded),
            "the first examples": (_batch(task, "val", 2), first_examples(decoded, 2)),
        }.items():
            before, after = task.metrics(), task.metrics()
            agree(task.evaluate(model, other, after), task.evaluate(model, mine, before), f"the loss of {what}", F32)
            for name, metric in before.items():
                if isinstance(value := metric.compute(), Tensor):
                    agree(after[name].compute(), value, f"{name} of {what}, decoded before", F32)
            same = task.texts(model, mine) == task.texts(model, other)
            require(same, f"the texts of {what} are others once it was decoded")
            for a, b in zip(task.maps(model, mine), task.maps(model, other), strict=True):
                agree(b.weights, a.weights, f"the weights of a map of {what}, decoded before", F32)
    return None


def slots(subject: Subject) -> None:
    """The host takes an attention without weights, drawing no maps, one that goes by places, recurrent if stepwise."""
    kinds: dict[type[Attention], str] = {WeightlessAttention: "without weights", ByPlace: "that goes by places"}
    if subject.component.cls.stepwise:
        kinds[Recalling] = "that is recurrent"
    task = subject.task
    for kind, words in kinds.items():
        with trying(f"an attention {words}"):
            model, batch = _host(task, kind), _batch(task, "val", 3)
            finite([task.loss(model, batch)], "the loss")
            with torch.no_grad():
                task.evaluate(model.eval(), batch, task.metrics())
                maps = task.maps(model, batch)
            require(not (kind is WeightlessAttention and maps), "it draws maps of weights that are not there")
            for drawn in maps:
                _map(drawn)
                # asked one query after the other, it is handed all so far: its rows then differ
                if kind is ByPlace and min(drawn.weights.shape[1:]) > 1:
                    alike = bool((drawn.weights == drawn.weights[:, :1]).all())
                    require(not alike, "it is asked each query as if that were the first: hand it all queries so far")


def _primary(task: Task, model: nn.Module, batch: Any) -> float:
    metrics = task.metrics()
    training = model.training
    with torch.no_grad():
        task.evaluate(model.eval(), batch, metrics)
    model.train(training)
    return float(metrics[task.primary].compute())


def learns(subject: Subject) -> str:
    """The loss on one batch of eight falls when it is trained on again and again, and its metric gets no worse."""
    from attnbench.training.optimizer import make_optimizer

    task = subject.task
    model, batch = _host(task), _batch(task, "train", 8)
    optimizer = make_optimizer(model, OptimizerConfig(lr=1e-2))
    losses, before = [], _primary(task, model, batch)
    for _ in range(20):
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    require(losses[-1] < losses[0], f"after 20 steps it is {losses[-1]:.4g}, and it was {losses[0]:.4g}")
    after = _primary(task, model, batch)
    lost = before - after if task.mode == "max" else after - before
    says = f"{task.primary} of that batch goes from {before:.4g} to {after:.4g} meanwhile, and mode={task.mode}"
    require(lost <= 0.1 * abs(task.goal - before), says)
    return f"{losses[0]:.3g} -> {losses[-1]:.3g}"


def checkpoints(subject: Subject) -> None:
    """The best and the last checkpoint of a run reload to the metrics that it measured."""
    from attnbench import run
    from attnbench.run_folder import typed

    assert subject.task  # or it is skipped
    plain = Component("attention", "plain", PlainAttention, __name__)
    form = Component("scoring", "form", BilinearScore, __name__)
    registry = Registry({**subject.registry.components, ("attention", "plain"): plain, ("scoring", "form"): form})
    few = {"max_steps": 2, "val_every": 2, "eval_batches": 1, "eval_batch_size": 16, "images": 0, "batch_size": 8}
    values = {
        "task": {"name": subject.component.name, **subject.options},
        "attention": {"name": "plain"},
        "scoring": {"name": "form"},
        "trainer": {**few, "progress_bar": False},
    }
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        folder = Path(place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.run(typed(registry, values, []), folder, registry, [])
            measured = json.loads((folder / "result.json").read_text())["metrics"]
            for which in ("best", "last"):  # one validation: they are of one step
                shutil.copy(folder / "checkpoints" / f"{which}.ckpt", folder / "copy.ckpt")
                shutil.copy(folder / "copy.ckpt", folder / "checkpoints" / "best.ckpt")
                for tag, value in run.evaluate(folder, registry, []).items():
                    same = math.isclose(value, measured[tag], rel_tol=1e-5, abs_tol=1e-7)
                    require(same, f"{tag} of {which}.ckpt is {value}, and the run measured {measured[tag]}")


LAWS: tuple[Law, ...] = (
    splits, workers, metrics, batches, seeds, tokens, restored, maps, decoding, slots, learns, checkpoints
)  # fmt: skip
#: Laws that say nothing new once another is broken: they are not tried then.
AFTER: Mapping[str, str] = {"seeds": "batches", "maps": "batches"}
