"""The shapes of the contracts: B examples, Q queries, K keys; Dq, Dk and Dv the widths of query, key and value."""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Queries and keys of a scoring function, its scores, and the places of queries and keys; None means 0, 1, ....
Queries = Float[Tensor, "*#batch Q Dq"]
Keys = Float[Tensor, "*#batch K Dk"]
ScoreMatrix = Float[Tensor, "*batch Q K"]
QueryPlaces = Int[Tensor, "*#batch Q"] | None
KeyPlaces = Int[Tensor, "*#batch K"] | None
#: Queries, keys and values of an attention module.
BQD = Float[Tensor, "B Q Dq"]
BKD = Float[Tensor, "B K Dk"]
BKV = Float[Tensor, "B K Dv"]
#: True where a query may attend; None where it may attend everything.
Mask = Bool[Tensor, "B #Q K"] | None
#: True where there is a key; None where there is one everywhere.
Pad = Bool[Tensor, "B K"] | None
#: What is seen.
Context = Float[Tensor, "B Q Dout"]
#: What a `step` hands to the next: the first dimension of each is B.
State = tuple[Tensor, ...]
#: `forward` of prepared keys and values: a function of `query`, `need_weights` and, if recurrent, `previous`.
Look = Callable[..., tuple[Tensor, Tensor | None]]
