"""Opens the trackers and observers that a command line names, and closes them after the run."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.extras import DISTRIBUTION
from broker.errors import RunError
from scenarios.errors import suggestion
from server_node.trackers.events import FAILED, Event, Sink, Tell, ended, silence
from server_node.trackers.own import own_observer
from server_node.trackers.relay import AT_ONCE, PATIENCE_S, Relay

TRACKERS = {"tensorboard": "TensorBoard", "mlflow": "MLflow"}
"""By name, which is that of its module here, of its package and of its extra, too: its sink."""

Log = Annotated[
    list[str] | None,
    typer.Option(metavar="|".join(TRACKERS), help="Log rounds and settings there, too; repeatable."),
]
Observer = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Python file with observe(event), told what happens; repeatable."),
]


@contextmanager
def telling_trackers(
    trackers: Sequence[str] | None, observers: Sequence[str] | None, folder: Path, *, waits: bool = False
) -> Iterator[Tell]:
    """Give the function that tells all trackers and observers what happens.

    Args:
        trackers: of TRACKERS.
        observers: see own_observer.
        folder: the run folder.
        waits: whether telling may wait a while for one that is behind: in virtual time, not in an event loop.

    Raises:
        RunError: an unknown tracker, one whose package is missing, or an observer that cannot be loaded.
    """
    sinks = {name: (_tracker(name, folder), AT_ONCE) for name in trackers or ()}
    sinks |= {f"observer {named}": (own_observer(named), 1) for named in observers or ()}
    if not sinks:
        yield silence
        return
    patience_s = PATIENCE_S if waits else 0.0
    with ExitStack() as stack:
        relays = [
            stack.enter_context(Relay(name, sink, at_once=at_once, patience_s=patience_s))
            for name, (sink, at_once) in sinks.items()
        ]

        def tell(event: Event) -> None:
            for relay in relays:
                relay.tell(event)

        try:
            yield tell
        except BaseException:
            tell(ended(FAILED))
            raise


def _tracker(name: str, folder: Path) -> Sink:
    """Import a tracker, which tells before the run what is missing, and make its sink."""
    if name not in TRACKERS:
        raise RunError(f"--log {name}: no such tracker{suggestion(name, TRACKERS, label='known')}")
    try:
        module = importlib.import_module(f"server_node.trackers.{name}")
    except ModuleNotFoundError as error:
        raise RunError(
            f"--log {name} needs {error.name}, which is not installed: "
            f"pip install '{DISTRIBUTION}[{name}]' brings it"
        ) from error
    sink: Sink = getattr(module, TRACKERS[name])(folder)
    return sink
