"""Components checked side by side, by processes that each take one after another.

A process that dies, of native code or for want of memory, breaks the law that it was trying, and none of another
component.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attnbench.contract.findings import Finding
from attnbench.errors import UsageError
from attnbench.registry import Registry
from attnbench.startup import end_imports


class Order(NamedTuple):
    """What is checked: a registered component, under the laws named, or all, with options other than its defaults."""

    kind: str
    name: str
    laws: Sequence[str] | None
    options: Mapping[str, Any]


def check_side_by_side(
    orders: Mapping[str, Order], processes: int, paths: Sequence[Path], say: Callable[[str, str, int], object]
) -> dict[str, list[Finding]]:
    """Check components in so many processes; return findings by the labels of the orders.

    Args:
        orders: what to check, by label.
        processes: how many.
        paths: plugins that are loaded besides those that are found.
        say: called with a label, a law that is tried now and the number of components that are done.

    Raises:
        UsageError: an option that a component does not take.
    """
    waiting, found, workers = iter(orders), dict[str, list[Finding]](), list[_Worker]()
    try:
        while len(found) < len(orders):
            while len(workers) < processes and (label := next(waiting, "")):
                with _no_interrupts():
                    workers.append(_Worker(paths))
                workers[-1].take(label, orders[label])
            for pipe in wait([worker.pipe for worker in workers]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                answer = worker.hear()
                if isinstance(answer, UsageError):
                    raise answer
                if isinstance(answer, str):
                    say(worker.label, answer, len(found))
                    continue
                found[worker.label] = answer
                if worker.process.is_alive() and (label := next(waiting, "")):
                    worker.take(label, orders[label])
                else:
                    workers.remove(worker)
                    worker.end()
    finally:
        with _no_interrupts():  # Ctrl-C comes twice where somebody is in a hurry
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.end()
    return {label: found[label] for label in orders}


class _Worker:
    """A process, and what it is at: the component's label, and the law."""

    def __init__(self, paths: Sequence[Path]) -> None:
        start = multiprocessing.get_context("spawn")  # a fork would inherit torch's locks without its threads
        self.pipe, theirs = start.Pipe()
        self.process = start.Process(target=_work, args=(theirs, paths))
        self.process.start()
        theirs.close()

    def take(self, label: str, order: Order) -> None:
        """Hand it the next component."""
        self.label, self.order, self.law = label, order, (order.laws or ["declarations"])[0]
        with suppress(ConnectionError):  # it died, as `hear` will find
            self.pipe.send(order)

    def hear(self) -> Any:
        """Return the law that it begins to try, its findings, or the error that it met."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return self._dead()
        self.law = answer if isinstance(answer, str) else self.law
        return answer

    def end(self) -> None:
        """Let the process end, which hears nothing any more; end it where it does not."""
        self.pipe.close()
        self.process.join(timeout=2)
        self.process.kill()
        self.process.join()

    def _dead(self) -> list[Finding]:
        from attnbench.contract import laws_for

        code = self.process.exitcode or 0
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        lost = Finding("", "skipped", f"not tried, or lost: '{self.law}' ended the process")
        return [
            Finding(law, "broken", f"it ended the process, with {how}") if law == self.law else replace(lost, law=law)
            for law in self.order.laws or laws_for(self.order.kind)
        ]


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, as a process started within does for good: who started it ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(pipe: Connection, paths: Sequence[Path]) -> None:
    from attnbench.contract import check

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it holds, semaphores among it, is given back
    torch.set_num_threads(1)
    registry = Registry.load(*paths)
    end_imports()
    try:
        while True:
            order: Order = pipe.recv()
            try:
                component = registry.get(order.kind, order.name)
                pipe.send(check(component, registry, laws=order.laws, options=order.options, say=pipe.send))
            except UsageError as error:
                pipe.send(error)
    except (EOFError, ConnectionError):
        return  # who asked is gone
