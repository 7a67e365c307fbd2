"""What asking one query after the other costs, over one call with all queries: keys projected again each time, or once.

    python tests/benchmarks/stepwise.py

Ten queries, no gradients. The three take turns in one process, so that the machine's changes of speed hit them alike.
Printed: the median CPU milliseconds of each, and the median ratio, turn by turn, to the call with all queries.
"""

import statistics
import time
from functools import partial

import torch

import attnbench
from attnbench.hosts import Unrolled, attend_next, prepare_keys

B, Q, K, D, TURNS = 32, 10, 60, 128, 20
MECHANISMS = (("soft", "additive"), ("soft", "bilinear"), ("soft", "cosine"), ("multihead", "scaled_dot"))


def one_by_one(ask, query):
    """Ask one query after the other."""
    state = Unrolled()
    for t in range(Q):
        _, state = ask(query[:, t : t + 1], state)


@torch.no_grad()
def main():
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    query, key = torch.randn(B, Q, D), torch.randn(B, K, D)
    mask = torch.arange(K) < torch.randint(K // 2, K + 1, (B, 1, 1))
    print(f"B={B} Q={Q} K={K} D={D}, with weights: CPU ms, ratio to all queries at once")
    print(f"{'':24}{'at once':>10}{'each anew':>18}{'prepared once':>18}")
    for name, scoring in MECHANISMS:
        attention = attnbench.build("attention", name, scoring=scoring, query_dim=D, key_dim=D, value_dim=D).eval()

        def anew(query, state, attention=attention):
            return attend_next(attention, query, key, key, mask, state)

        def prepared(attention=attention):
            one_by_one(prepare_keys(attention, key, key, mask), query)

        ways = (partial(attention, query, key, key, mask), partial(one_by_one, anew, query), prepared)
        times = [[] for _ in ways]
        for _ in range(TURNS):
            for way, taken in zip(ways, times, strict=True):
                start = time.process_time()
                way()
                taken.append((time.process_time() - start) * 1e3)
        line = f"{name + ' ' + scoring:24}{statistics.median(times[0]):10.1f}"
        for taken in times[1:]:
            ratio = statistics.median(t / whole for t, whole in zip(taken, times[0], strict=True))
            line += f"{statistics.median(taken):10.1f}{ratio:7.2f}x"
        print(line, flush=True)


if __name__ == "__main__":
    main()
