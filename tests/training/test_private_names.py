"""Names of torch and Lightning that are not promised: where they may stand, and what each is for."""

import ast
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities import rank_zero_only

CORE = Path(__file__).parent.parent.parent / "attnbench"
ROOMS = sorted([*CORE.glob("training/*.py"), *CORE.glob("reports/*.py")]) + [
    CORE / name for name in ("run.py", "run_folder.py", "measure.py")
]
MAY = ("process.py", "experiment.py")


def private_attributes(path: Path) -> set[str]:
    """Return `_names` that are read off something else than `self` or a module's own class."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.name)
def test_private_names_stand_in_process_and_experiment_only(path: Path) -> None:
    if path.name in MAY and path.parent.name == "training":
        assert private_attributes(path) <= {"_foreach_mul_"}, "a private name needs a test below, and a word on its use"
    else:
        assert not private_attributes(path)


def test_gradients_are_scaled_in_one_call() -> None:
    assert hasattr(torch, "_foreach_mul_"), (
        "torch._foreach_mul_ is gone: training/experiment.py scales all gradients with it in one call when it clips"
    )
    gradients = [torch.ones(2), torch.ones(3)]
    torch._foreach_mul_(gradients, 0.5)
    assert all(bool((gradient == 0.5).all()) for gradient in gradients)


def test_sparse_gradients_can_be_read_without_coalescing_them() -> None:
    assert hasattr(torch.Tensor, "_indices") and hasattr(torch.Tensor, "_values"), (
        "Tensor._indices or _values is gone: kernels.sparse_rows reads an embedding's gradient with them, uncoalesced"
    )


def test_the_step_of_lightnings_optimizer_can_be_done_without_its_hooks() -> None:
    wrapped = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    assert getattr(LightningOptimizer(wrapped), "optimizer", None) is wrapped, (
        "LightningOptimizer.optimizer is gone: training/experiment.py steps it directly on one device"
    )


def test_a_scaler_of_float16_gradients_can_be_seen() -> None:
    precision = MixedPrecision("bf16-mixed", "cpu")
    assert hasattr(precision, "scaler"), (
        "MixedPrecision.scaler is gone: training/experiment.py leaves the step to Lightning where gradients are scaled"
    )


def test_the_rank_of_a_process_is_known_before_it_has_a_trainer() -> None:
    assert getattr(rank_zero_only, "rank", None) == 0, (
        "rank_zero_only.rank is gone: training/process.py asks it which process writes the run folder"
    )


def test_hydras_config_can_be_taken_away() -> None:
    assert hasattr(HydraConfig.instance(), "cfg"), (
        "HydraConfig.cfg is gone: training/process.py clears it, else Lightning repeats Hydra's command line in the "
        "other processes of a run"
    )
