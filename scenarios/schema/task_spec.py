"""What a scenario says of its task, and of how the task's data come to the clients."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from scenarios.schema.base import Part, Positive, PositiveInt

PLACES = ("path", "module", "data")
"""Keys of the task that say where something is on this machine."""


def _partition_form(value: object) -> str:
    return "skew" if isinstance(value, dict | Skew) else "name"


class Skew(Part):
    """Clients that differ in their classes, in their sizes, or in both."""

    dirichlet_alpha: Positive | None = Field(
        default=None,
        description=(
            "each client has a random class mixture, and all are of equal size; small: few classes each, "
            "large: all are alike"
        ),
    )
    shards: PositiveInt | None = Field(
        default=None,
        description="rows sorted by class are cut into equal shards; each client gets so many of them",
    )
    classes_per_client: PositiveInt | None = Field(
        default=None,
        description="each client has exactly so many classes; those who have a class share its rows equally",
    )
    quantity_skew: Positive | None = Field(
        default=None,
        description=(
            "sizes of the clients are drawn from a Dirichlet distribution; small: a few have most rows, "
            "large: all have as many; alone, or with dirichlet_alpha"
        ),
    )
    min_samples: PositiveInt | None = Field(
        default=None, description="rows that every client has at least; 1 if not given"
    )

    @model_validator(mode="after")
    def _says_how(self) -> "Skew":
        labels = [key for key in LABEL_SKEWS if getattr(self, key) is not None]
        if not labels and self.quantity_skew is None:
            raise ValueError(f"needs one of {', '.join(LABEL_SKEWS)} or quantity_skew")
        if len(labels) > 1:
            raise ValueError(f"takes one of {' and '.join(labels)}, not both")
        if self.quantity_skew is not None and labels not in ([], ["dirichlet_alpha"]):
            raise ValueError(f"quantity_skew goes alone or with dirichlet_alpha, not with {labels[0]}")
        return self

    @property
    def by_label(self) -> str | None:
        """The key by which clients differ in their classes; None: they do not."""
        return next((key for key in LABEL_SKEWS if getattr(self, key) is not None), None)


LABEL_SKEWS = ("dirichlet_alpha", "shards", "classes_per_client")
"""Keys that divide rows by their class, and so need one class for each row."""


Partition = Annotated[
    Annotated[Literal["iid", "natural", "local"], Tag("name")] | Annotated[Skew, Tag("skew")],
    Discriminator(_partition_form),
]


def _named_metric(parameters: dict[Any, Any]) -> dict[str, str | float | None]:
    if not isinstance(parameters.get("torchmetrics"), str):
        raise ValueError("must name a metric: {torchmetrics: MulticlassF1Score, num_classes: 10}")  # noqa: TRY004
    for name, value in parameters.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float | None):
            raise ValueError(f"{name} must be text, a number, true, false or null")  # noqa: TRY004
    return parameters


Metric = Annotated[
    Annotated[Literal["loss", "perplexity"], Tag("name")]
    | Annotated[dict[Any, Any], AfterValidator(_named_metric), Tag("parameters")],
    Discriminator(lambda value: "parameters" if isinstance(value, dict) else "name"),
]


Layer = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""A layer's name; those of nn.Sequential are numbers."""


class TaskSpec(Part):
    """The task, and how its data are divided among the clients."""

    name: str = Field(
        default="digits28", description="a built-in task, or the name of your own one in `module`"
    )
    module: str | None = Field(
        default=None,
        description=(
            "your own task: a Python file, or an importable module, with `task() -> Task`; with `cut`: with "
            "`build() -> nn.Module` and `data() -> Dataset`"
        ),
    )
    model: str | None = Field(
        default=None, description="with `cut`: the function of `module` that makes the model; usually build"
    )
    cut: Layer | None = Field(
        default=None,
        description=(
            "cut the model of `module` behind this layer, named as in named_modules(), such as layer2 or "
            "features.4; `fedlite scenarios cuts` lists where it can be cut"
        ),
    )
    second_cut: Layer | None = Field(
        default=None,
        description=(
            "for method u_shape: with `cut`: the layer behind which the model is cut once more; devices have "
            "what comes after it"
        ),
    )
    path: Path | None = Field(default=None, description="folder of the data, for tasks that need one")
    data: Path | None = Field(
        default=None,
        description="for partition local: this device's own data, or a folder with a folder for each client",
    )
    partition: Partition = Field(
        description=(
            "iid: equal random shares; natural: an owner (writer, speaker) per client; local: each device "
            "has its own data; or a skew"
        )
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description=(
            "for partition local: share of each device's rows that is kept for evaluation, because the "
            "server has no test data"
        ),
    )
    metric: Metric | None = Field(
        default=None,
        description=(
            "what evaluations measure; null: what the task says. loss, perplexity, or a metric of "
            "torchmetrics with its parameters: {torchmetrics: MulticlassF1Score, num_classes: 10}"
        ),
    )
    batch_size: PositiveInt = Field(default=20, description="samples per step of a client")

    @model_validator(mode="before")
    @classmethod
    def _named_by_module(cls, given: Any) -> Any:
        """Name a task after its module, unless it says how it is called itself."""
        if not isinstance(given, dict) or given.get("name") or given.get("cut") is None:
            return given
        module = given.get("module")
        return given | {"name": _stem(module)} if isinstance(module, str) and module else given


def _stem(module: str) -> str:
    """Give the last part of a module's name, without .py."""
    return Path(module).stem if module.endswith(".py") or "/" in module else module.rpartition(".")[2]
