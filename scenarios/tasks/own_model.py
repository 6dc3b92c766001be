"""Makes a task of a user's model and data: the scenario names the layer to cut at.

The module has `build() -> nn.Module` (or another name, `task.model`) and `data() -> Dataset`. What else has
the name of an attribute of Task (`loss`, `score`, `metric`, `classes`, `load_local`, `load_test`, ...) takes
the place of what follows from these two: cross-entropy and accuracy over the classes of the output, or what
is usual for the kind of `targets` (scenarios.tasks.usual).
`example() -> Tensor` gives a few rows of inputs on machines that have no data to share.
"""

from dataclasses import fields
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from scenarios.cutting.cut import Build, Cut, CutError
from scenarios.cutting.finding import find_cut
from scenarios.cutting.possible import Possible, possible_cuts
from scenarios.cutting.trees import tensors
from scenarios.errors import ScenarioError
from scenarios.schema.task_spec import TaskSpec
from scenarios.task import Dataset, Task
from scenarios.tasks.user_module import import_module
from scenarios.tasks.usual import class_dimension, usual

EXAMPLE_ROWS = 3
CHOSEN = {"name", "cut_shape", "head", "tail", "load", "top", "features_shape", "example", "early"}
"""Attributes of Task that the module does not decide by itself."""


def own_model(spec: TaskSpec, module: ModuleType) -> Task:
    """Make the task of a model that is cut where the scenario says.

    Args:
        spec: of the scenario.
        module: the user's.

    Raises:
        ScenarioError: the module lacks something, fails, or its model cannot be cut there.
    """
    data = _Data(module)
    build, example = _build(spec.model or "build", module), data.example()
    cut, last = _cuts(spec, build, example)
    settings = {each.name: getattr(module, each.name) for each in fields(Task) if hasattr(module, each.name)}
    settings = {name: value for name, value in settings.items() if name not in CHOSEN}
    settings = usual(settings) | settings | {"example": lambda: example}
    if not {"classes", "targets"} & settings.keys():
        settings["classes"] = _classes(last or cut, data.target_shape)
    if "targets" not in settings:
        settings.setdefault("target_shape", data.target_shape)
    if hasattr(module, "data"):
        settings["load"] = data
    if last is not None:
        settings |= {"top": last.tail, "features_shape": last.layout.cut_shape}
    return Task(name=spec.name, cut_shape=cut.layout.cut_shape, head=cut.head, tail=cut.tail, **settings)


def _cuts(spec: TaskSpec, build: Build, example: Tensor) -> tuple[Cut, Cut | None]:
    """Give the first cut, and the second one if there is one: its head is what the first one cuts."""
    key = "task.cut"
    try:
        first = find_cut(build, spec.cut or "", example)
        if spec.second_cut is None:
            return first, None
        key = "task.second_cut"
        last = find_cut(build, spec.second_cut, example)
        try:
            return find_cut(last.head, f"model.{spec.cut}", example), last
        except CutError as error:
            why = str(error).replace("'model.", "'")
            raise CutError(f"'{spec.second_cut}' must come after '{spec.cut}': {why}") from error
    except CutError as error:
        raise ScenarioError(str(error), key=key) from error


def cuts_of(module: str, model: str = "build") -> list[Possible]:
    """Give the places where a user's model can be cut, in the order in which a batch comes there.

    Args:
        module: path of a Python file, or name of an importable module.
        model: the function in it that makes the model.

    Raises:
        ScenarioError: the module lacks something, or fails.
    """
    loaded = import_module(module)
    try:
        return list(possible_cuts(_build(model, loaded), _Data(loaded).example()))
    except CutError as error:
        raise ScenarioError(str(error), key="task.model") from error


def _classes(cut: Cut, target_shape: tuple[int, ...]) -> int:
    """Give the number of classes that the model has outputs for."""
    found = [tuple(tensor.shape) for _, tensor in tensors(cut.outputs)]
    if len(found) != 1 or len(found[0]) < 2:  # noqa: PLR2004 - samples and classes
        shapes = " and ".join(map(str, found)) or "no tensor"
        raise ScenarioError(
            f"the model gives {shapes} for 3 samples, not one row of classes for each: say in the module how "
            "many `classes` targets have, with a loss and a score of your own",
            key="task.module",
        )
    return found[0][class_dimension(found[0], (found[0][0], *target_shape))]


class _Data:
    """Reads the data when they are first needed; who loads them for good has them alone.

    Attributes:
        target_shape: of one sample's target, once `example` has looked at the data.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._read: Dataset | None = None
        self.target_shape: tuple[int, ...] = ()

    def _data(self) -> Dataset:
        data = _called(self._module, "data", "task.module")
        if not isinstance(data, Dataset):
            name = type(data).__name__
            raise ScenarioError(f"data() gives a {name}, it must give a Dataset", key="task.module")
        return data

    def example(self) -> Tensor:
        """Give a few rows of inputs."""
        if hasattr(self._module, "example"):
            inputs = _called(self._module, "example", "task.module")
            if not isinstance(inputs, Tensor) or not len(inputs):
                raise ScenarioError("example() must give a tensor of at least one row", key="task.module")
            return inputs
        if not hasattr(self._module, "data"):
            raise ScenarioError(
                "there must be a function data() -> Dataset, or for partition local example() -> Tensor "
                "with a few rows of inputs",
                key="task.module",
            )
        self._read = self._data()
        inputs, targets = self._read.train.batch(slice(EXAMPLE_ROWS))
        if not len(inputs):
            raise ScenarioError("data() gives no rows to train on", key="task.module")
        self.target_shape = tuple(targets.shape[1:]) if isinstance(targets, Tensor) else ()
        return inputs

    def __call__(self) -> Dataset:
        """Give the data."""
        data, self._read = self._read or self._data(), None
        return data


def _build(name: str, module: ModuleType) -> Build:
    if not callable(getattr(module, name, None)):
        where = module.__file__ or module.__name__
        raise ScenarioError(f"there is no function {name}() -> nn.Module in {where}", key="task.model")

    def build() -> nn.Module:
        return _called(module, name, "task.model")  # type: ignore[no-any-return]

    return build


def _called(module: ModuleType, name: str, key: str) -> Any:
    """Call a function of a user's module; whatever it raises becomes a sentence."""
    try:
        return getattr(module, name)()
    except ScenarioError:
        raise
    except Exception as error:  # whatever the user's code raises
        text = " ".join(str(error).split())
        raise ScenarioError(f"{name}() fails: {type(error).__name__}: {text}", key=key) from error
