"""The laws of scoring functions: those of attention, in a plain one, and three of their own."""

from __future__ import annotations

import itertools

import torch

from attnbench.contract.attention import IN_ATTENTION
from attnbench.contract.cases import Case, cases
from attnbench.contract.harness import Law, Subject
from attnbench.contract.requirements import agree, finite, require, trying
from attnbench.interfaces import ScoringFunction


def _score(subject: Subject, dtype: torch.dtype = torch.float64) -> ScoringFunction:
    score: ScoringFunction = subject.make(dtype).score  # type: ignore[assignment]
    return score


def broadcasting(subject: Subject) -> None:
    """Scores are [..., Q, K], finite, whatever the leading dimensions, which broadcast."""
    score = _score(subject)
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ()), ((2,), (2,)), ((2,), ()), ((2, 1), (1, 3))]
    for (of_query, of_key), (Q, K) in itertools.product(pairs, ((1, 1), (2, 3))):
        subject.seed(1)
        query = torch.randn(*of_query, Q, subject.widths[0], dtype=torch.float64, device=subject.device)
        key = torch.randn(*of_key, K, subject.widths[1], dtype=torch.float64, device=subject.device)
        with trying(f"query {list(query.shape)} key {list(key.shape)}"):
            scores = score(query, key)
            batch = list(torch.broadcast_shapes(of_query, of_key))  # type: ignore[no-untyped-call]
            require(list(scores.shape) == [*batch, Q, K], f"the scores are {list(scores.shape)}, not {[*batch, Q, K]}")
            finite([scores], "a score")
            whole = score(query.expand(*batch, -1, -1), key.expand(*batch, -1, -1))
            agree(scores, whole, "the scores of expanded inputs")


def factors(subject: Subject) -> str | None:
    """q'·k' of `factor`, each made of its own side alone, is the score, up to a term of the query alone."""
    score = _score(subject)
    for case in cases(["none"]):
        inputs = subject.inputs(case)
        with trying(case):
            pair = score.factor(inputs.query, inputs.key)
            if pair is None:
                return "it does not factor"
            alone = score.factor(inputs.query, inputs.key[:, :0]), score.factor(inputs.query[:, :0], inputs.key)
            require(None not in alone, "without keys, or without queries, it does not factor")
            agree(alone[0][0], pair[0], "q' without the keys")  # type: ignore[index]
            agree(alone[1][1], pair[1], "k' without the queries")  # type: ignore[index]
            rest = score(inputs.query, inputs.key) - pair[0] @ pair[1].mT
            agree(rest, rest.mean(dim=-1, keepdim=True).expand_as(rest), "score - q'·k' over the keys")
    return None


def places(subject: Subject) -> str | None:
    """A positional function scores by the places that it is told, in half precision too, be they far or a part."""
    score = _score(subject)
    if not score.positional:
        return "it does not go by places"
    inputs = subject.inputs(Case(1, 6, 6, "none"))
    some, others = (torch.tensor(p, device=subject.device) for p in ([1, 4], [0, 2, 5]))
    with trying("places 1, 4 and 0, 2, 5 of 6"):
        part = score(inputs.query[:, some], inputs.key[:, others], some, others)
        whole = score(inputs.query, inputs.key)
        agree(part, whole[:, some][..., others], "the scores, against those of all six")
        prepared = score.prepare(inputs.key)(inputs.query[:, 1:2], query_places=some[:1])
        agree(prepared, whole[:, 1:2], "the scores of query 1 at its place, of keys that are prepared")
    blocks = torch.stack([some, some + 1])
    with trying("places of two blocks, 1, 4 and 2, 5, of 6 keys"):
        part = score(inputs.query[0, blocks], inputs.key, blocks)
        agree(part, whole[0, blocks], "the scores, against those of all six")
    for dtype in subject.dtypes:
        narrow = subject.inputs(Case(1, 6, 6, "none"), dtype)
        far = torch.arange(6, device=subject.device) + 1001
        with trying(f"places from 1,001 on, {dtype}"):
            exact = score(narrow.query.double(), narrow.key.double(), far, far)
            agree(_score(subject, dtype)(narrow.query, narrow.key, far, far), exact, "the scores", dtype)
    return None


LAWS: tuple[Law, ...] = (*IN_ATTENTION, broadcasting, factors, places)
