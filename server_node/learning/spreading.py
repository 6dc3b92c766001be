"""Decodes and encodes what many clients sent on all cores that the server may use.

The results are those of the plain `map`, to the byte: what is done for a client depends on its message and
its own random stream alone.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

WORTH_VALUES = 65_536
"""From so many values on, a message is worth handing it to another thread. Below, Python itself is most of
the work, and one thread at a time can do that."""

Map = Callable[..., Iterable[Any]]


@contextmanager
def spreading(threads: int) -> Iterator[Callable[[int], Map]]:
    """Keep threads for codecs while the context lasts.

    They work while the tail's thread waits for them, so they are as many as torch may use, not more. numpy's
    own threads are one for each of them, since a matrix product must not take all cores for one client.

    Args:
        threads: at least 1; with 1 nothing is spread.

    Yields:
        What gives a `map` for messages of so many values each.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="codec") as pool, _numpy_blas().limit(limits=1):

        def spread(function: Callable[..., Any], *columns: Any) -> Iterable[Any]:
            alone = len(columns[0]) < 2  # noqa: PLR2004  one message needs no other thread
            return map(function, *columns) if alone else pool.map(function, *columns)

        yield lambda values: spread if threads > 1 and values >= WORTH_VALUES else map


def _numpy_blas() -> ThreadpoolController:
    """Find the library that numpy multiplies matrices with; torch has one of its own, which is left alone."""
    controller = ThreadpoolController()
    files = [library["filepath"] for library in controller.info()]
    return controller.select(filepath=[file for file in files if "numpy" in file])
