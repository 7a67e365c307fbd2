"""What tests read in a run folder."""

import json

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def weights_of(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def events(folder):
    read = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    read.Reload()
    return read
