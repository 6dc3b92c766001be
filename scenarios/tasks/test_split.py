"""Chooses a tenth of each owner's rows for testing, for data that are not divided into train and test."""

import numpy as np
import numpy.typing as npt

from scenarios.seeds import generator

TEST_SHARE = 10


def random_tenth(owners: npt.NDArray[np.int64] | npt.NDArray[np.str_], task: str) -> npt.NDArray[np.bool_]:
    """Choose a tenth of each owner's rows: for one task always the same rows.

    Args:
        owners: of each row, shape (N,), in any order.
        task: its name.

    Returns:
        A mask, shape (N,).
    """
    rng = generator(0, task, "test")
    mask = np.zeros(len(owners), np.bool_)
    for rows in rows_of_owners(owners):
        mask[rng.choice(rows, len(rows) // TEST_SHARE, replace=False)] = True
    return mask


def rows_of_owners(
    owners: npt.NDArray[np.int64] | npt.NDArray[np.str_],
) -> list[npt.NDArray[np.int64]]:
    """Give the rows of each owner, in ascending order; the owners are sorted."""
    by_owner = np.argsort(owners, kind="stable")
    starts = np.unique(owners[by_owner], return_index=True)[1]
    return np.split(by_owner, starts[1:])
