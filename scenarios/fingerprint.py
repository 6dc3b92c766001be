"""What a device and a server must have in common that no scenario says: the code of the task.

Both make the fingerprint from what they have, and the server compares them. Without that, a device whose
model has a Tanh in place of a ReLU would train along, quietly wrong.
"""

import functools
import importlib.util
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

from scenarios.errors import ScenarioError
from scenarios.schema.scenario import Scenario
from scenarios.schema.task_spec import TaskSpec
from scenarios.task import Task
from scenarios.tasks.user_module import is_file

DIGEST_BYTES = 4


@functools.cache
def package_version() -> str:
    """Give the version of this package, such as 0.1.0."""
    return metadata.version("fedlite-mqtt")


def model_fingerprint(scenario: Scenario, task: Task) -> str:
    """Give two digests of 8 hexadecimal digits each, with a hyphen between them.

    The first one is of the parameters that devices train: their names, shapes and dtypes. The second one is
    of the task's code: of a user's own task the text of its module, not of what that imports; of a built-in
    one the package's version up to the second number, since other releases do not change tasks.

    Args:
        scenario: names the task.
        task: the task, with its model cut as the training method needs it.

    Raises:
        ScenarioError: the source of the user's module cannot be read.
    """
    parameters = "\n".join(
        f"{name} {tuple(parameter.shape)} {parameter.dtype}"
        for name, parameter in task.head().named_parameters()
    )
    return f"{_digest(parameters)}-{_digest(_source(scenario.task))}"


def _source(spec: TaskSpec) -> str:
    if spec.module is None:
        return f"{spec.name} of {'.'.join(package_version().split('.')[:2])}"
    file = spec.module
    if not is_file(file):
        found = importlib.util.find_spec(file)
        file = (found.origin if found else None) or file
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: its text cannot be read: {error}", key="task.module") from error


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
