"""Where the model's last layers are: with the server, or in a U-shape with the devices, as the labels are.

Letters: z the activations at the first cut, shape (n, d); y the features at the second one, shape (n, f).
"""

from dataclasses import replace

from torch import Tensor, nn

from scenarios.errors import ScenarioError
from scenarios.task import Task


class Ends(nn.Module):
    """A device's layers in a U-shape. As a module it is the head; its parameters are those of both ends.

    So whatever is done with the parameters of a head (they are averaged, sent, kept, moved by SGD) is done
    with those of the top as well.

    Attributes:
        head: the layers before the server's, inputs -> z.
        top: those after them, y -> outputs.
    """

    def __init__(self, head: nn.Module, top: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.top = top

    def forward(self, inputs: Tensor) -> Tensor:
        """Give z."""
        z: Tensor = self.head(inputs)
        return z


def u_shaped(task: Task) -> Task:
    """Give the devices the last layers, too.

    Raises:
        ScenarioError: the task does not say which these are.
    """
    top = task.top
    if top is None or not task.features_size:
        raise ScenarioError(
            f"u_shape needs to know the last layers, which devices keep: {task.name} has no top with "
            "features_shape, and there is no task.second_cut; take split",
            key="training.method",
        )
    return replace(task, head=lambda: Ends(task.head(), top()))


def with_top_at_server(task: Task) -> Task:
    """Give the server the last layers, too; the names of all parameters are as if they were one tail."""
    top = task.top
    if top is None:
        return task

    def tail() -> nn.Module:
        return nn.Sequential(*(layer for part in (task.tail(), top()) for layer in _layers(part)))

    return replace(task, tail=tail, top=None, features_shape=())


def _layers(part: nn.Module) -> list[nn.Module]:
    return list(part) if type(part) is nn.Sequential else [part]


def whole_model(head: nn.Module, tail: nn.Module, inputs: Tensor) -> Tensor:
    """Send inputs through a whole model, whatever its shape."""
    outputs: Tensor = tail(head(inputs))
    return head.top(outputs) if isinstance(head, Ends) else outputs
