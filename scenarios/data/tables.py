"""Reads parquet files of the user's, in the form in which Hugging Face publishes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenarios.errors import ScenarioError


def parquet_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Give a folder's parquet files, subfolders included: for training, and those with "test" in the name."""
    files = sorted(folder.rglob("*.parquet"))
    tests = [file for file in files if "test" in file.name]
    return [file for file in files if file not in tests], tests


def read_parquet(
    file: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()
) -> Iterator[list[list[Any]]]:
    """Give the values of some columns, a few thousand rows at a time.

    Args:
        file: a parquet file.
        columns: that it must have.
        optional: further columns, which come after these; the values of one that is missing are "".

    Raises:
        ScenarioError: the file is no parquet file, or lacks a column; or pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - 40 MB that a device with another task does without
        from pyarrow import parquet  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise ScenarioError(f"{file.name} needs pyarrow: pip install pyarrow") from error

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=4096, columns=[*columns, *optional]):
            rows = batch.to_pydict()
            missing = [""] * batch.num_rows
            yield [rows[name] for name in columns] + [rows.get(name, missing) for name in optional]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ScenarioError(f"{file}: not a table of {', '.join(columns)}: {error}") from error
