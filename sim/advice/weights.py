"""Weights of a run that has trained, for a model that may be cut elsewhere."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from broker.errors import RunError

FILE = "model.safetensors"
SIDES = ("head", "tail")


def load_weights(run: Path, head: nn.Module, tail: nn.Module) -> None:
    """Give both parts of a model the weights that a run has ended with.

    Where a user's model is cut does not matter: the layers of both parts have the names of the whole model.
    So what the run has in its tail may be in the head here.

    Args:
        run: its folder.
        head: gets weights.
        tail: gets weights.

    Raises:
        RunError: the run has no trained model, or that of another task.
    """
    try:
        saved = load_file(run / FILE)
    except FileNotFoundError:
        raise RunError(
            f"no {FILE} in {run}: a run that trains has it at its end; runs of sweeps and studies keep none"
        ) from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run / FILE} cannot be read: {error}") from error
    for side, part in zip(SIDES, (head, tail), strict=True):
        part.load_state_dict(
            {name: _saved(saved, run, side, name, value) for name, value in part.state_dict().items()}
        )


def _saved(saved: dict[str, Tensor], run: Path, side: str, name: str, wanted: Tensor) -> Tensor:
    """Find a tensor, in its own part first."""
    found = next(
        (saved[key] for key in (f"{each}.{name}" for each in sorted(SIDES, key=side.__ne__)) if key in saved),
        None,
    )
    if found is None or found.shape != wanted.shape:
        has = "no such tensor" if found is None else f"one of shape {tuple(found.shape)}"
        raise RunError(
            f"{run} has trained another model: the scenario's {side} has {name} of shape "
            f"{tuple(wanted.shape)}, and the run has {has}"
        )
    return found
