"""Laws of what traces a module: torch.compile, torch.export, the meta device."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from attnbench.contract.harness import Subject
from attnbench.contract.requirements import Broken, agree, require, trying


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's own account of what it traces, of some forty lines, from the terminal."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _calls(
    subject: Subject, keys: int, kinds: Sequence[str], weighing: Sequence[str]
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Yield calls of a module in float32, positional and keyword arguments, for so many keys.

    Those of the kinds that are `weighing` ask for weights: one compiler weighs where the other does not.
    """
    B, Q, K = keys - 3, 1 if subject.cls.recurrent else keys - 2, keys
    for case in subject.cases(kinds, [(B, Q, K)]):
        inputs = subject.inputs(case, torch.float32)
        need = subject.cls.has_weights and case.mask in weighing
        options: dict[str, Any] = {"need_weights": need}
        if case.said:
            options["causal"] = True
        if subject.cls.recurrent:
            weights = subject.attend(subject.make(torch.float32), inputs)[1]
            options["previous"] = weights.detach()
        yield f"{case} need_weights={need}", (inputs.query, inputs.key, inputs.value, inputs.mask), options


def compiles(subject: Subject) -> None:
    """torch.compile takes it whole, causal too, without a break in the graph, and the output stays."""
    module: nn.Module = subject.make(torch.float32)
    # the backward pass is traced where a causal model is trained, which takes half of the time
    backends = {"padding": "aot_eager" if subject.cls.recurrent else "eager", "causal=True": "aot_eager"}
    for kind, backend in backends.items():
        for case, args, options in _calls(subject, 5, [kind], weighing=["padding"]):
            torch._dynamo.reset()
            whole = torch.compile(module, backend=backend, fullgraph=True, dynamic=False)
            with trying(f"{case} compiled"), _silence():
                agree(whole(*args, **options)[0], module(*args, **options)[0], "the context", torch.float32)


def exports(subject: Subject) -> None:
    """torch.export takes it, causal too, for batches and sequences of any length, and the output stays."""
    module: nn.Module = subject.make(torch.float32)
    kinds, weighing = ("padding", "causal=True"), ["causal=True"]
    others = {case.partition("mask=")[2]: args for case, args, _ in _calls(subject, 7, kinds, weighing)}
    for case, args, options in _calls(subject, 5, kinds, weighing):
        sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        query = {0: torch.export.Dim.DYNAMIC} if subject.cls.recurrent else sizes
        mask = None if args[3] is None else {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
        shapes: dict[str, Any] = {"query": query, "key": sizes, "value": sizes, "mask": mask}
        shapes |= dict.fromkeys(options)
        if subject.cls.recurrent:
            shapes["previous"] = {0: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        with trying(f"{case} exported"), _silence():
            program = _exported(module, args, options, shapes)
            agree(program(*args, **options)[0], module(*args, **options)[0], "the context", torch.float32)
            longer = others[case.partition("mask=")[2]]
            if not subject.cls.recurrent:
                agree(program(*longer, **options)[0], module(*longer, **options)[0], "longer", torch.float32)


def _exported(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], shapes: dict[str, Any]) -> nn.Module:
    try:
        # sizes that are symbols miss the cache of shapes, and cost twice the time with it
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            return torch.export.export(module, args, options, dynamic_shapes=shapes).module()
    except Exception as error:
        if "Constraints violated" not in str(error):
            raise
        cure = "write x.shape[0] for len(x), and no Python `if` or `for` on a size"
        raise Broken(f"it takes a size for a fixed number: {cure}") from None


def meta(subject: Subject) -> None:
    """On the meta device, where tensors have shapes and no numbers, it comes to the same shapes."""
    module: nn.Module = subject.make(torch.float32).to("meta")
    for case, args, options in _calls(subject, 5, kinds := ("none", "padding", "causal=True"), weighing=kinds):
        moved = [None if x is None else x.to("meta") for x in args]
        there = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in options.items()}
        with trying(f"{case} on the meta device"):
            context, _ = module(*moved, **there)
            B, Q = args[0].shape[:2]
            require(context.device.type == "meta" and context.shape[:2] == (B, Q), f"the context is {context.shape}")
