"""Counts the rows of each class that each client has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from broker.codecs.targets import Labels, Output, Probabilities, Several, Tags
from scenarios.outputs import arrays, outputs_of
from scenarios.task import Dataset, Task

MOST = 19
"""So many classes are told apart, the commonest of all clients; the others are one."""
OTHERS = "others"


@dataclass(frozen=True)
class LabelCounts:
    """What clients have.

    Attributes:
        clients: their names.
        samples: rows of each, shape (clients,).
        classes: different classes of each, shape (clients,); 0 where targets are no classes.
        labels: names of the columns of `table`.
        table: labels of each client, shape (clients, labels); a row with several labels counts in each.
    """

    clients: Sequence[str]
    samples: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    labels: Sequence[str]
    table: npt.NDArray[np.int64]


def labels_of(task: Task, data: Dataset) -> tuple[Output, npt.NDArray[Any]]:
    """Give the kind of a task's targets, and those of all training rows; of several outputs the first."""
    kind, targets = task.kind, outputs_of(arrays(data.train.targets))
    name = next(iter(targets))
    return (kind.outputs[name] if isinstance(kind, Several) else cast("Output", kind)), targets[name]


def count_labels(
    kind: Output,
    targets: npt.NDArray[Any],
    shares: Sequence[npt.NDArray[np.int64]],
    clients: Sequence[str],
) -> LabelCounts:
    """Count the labels of each client.

    Args:
        kind: what targets mean. Of tags each counts, of a sequence of labels, too; of probabilities the
            likeliest class; of numbers only rows. Labels below 0 or from `classes` on are not counted.
        targets: of all rows, shape (N, *kind.shape).
        shares: the rows of each client.
        clients: their names.
    """
    samples = np.array([len(rows) for rows in shares], np.int64)
    found = [_count(targets[rows], kind) for rows in shares]
    if any(each is None for each in found):
        return LabelCounts(clients, samples, np.zeros_like(samples), ["samples"], samples[:, None])
    whole = np.array(found)
    classes = (whole > 0).sum(axis=1)
    by_count = np.argsort(-whole.sum(axis=0), kind="stable")
    few = by_count if len(by_count) <= MOST + 1 else by_count[:MOST]
    shown, rest = np.sort(few), np.setdiff1d(by_count, few)
    labels, table = [str(label) for label in shown], whole[:, shown]
    if len(rest):
        labels, table = [*labels, OTHERS], np.column_stack([table, whole[:, rest].sum(axis=1)])
    return LabelCounts(clients, samples, classes, labels, table)


def _count(targets: npt.NDArray[Any], kind: Output) -> npt.NDArray[np.int64] | None:
    """Count each label; None where targets are no labels."""
    match kind:
        case Labels(classes=classes):
            plain = targets.astype(np.int64).ravel()
            return np.bincount(plain[(plain >= 0) & (plain < classes)], minlength=classes)
        case Tags():
            found: npt.NDArray[np.int64] = targets.astype(np.int64).sum(axis=0)
            return found
        case Probabilities(classes=classes):
            return np.bincount(targets.argmax(axis=1), minlength=classes)
        case _:
            return None
