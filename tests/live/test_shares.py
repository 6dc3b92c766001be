"""How `fedlite run` deals the fleet out to edge processes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.live.run import _shares


@given(
    st.integers(1, 500), st.one_of(st.none(), st.integers(1, 40)), st.one_of(st.none(), st.integers(1, 64))
)
def test_each_client_is_in_one_process_and_no_core_is_idle(
    clients: int, processes: int | None, cores: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: cores)
        shares = _shares(clients, processes)
    options = [dict(each.split("=") for each in share[:2]) for share in shares]
    bounds = [tuple(map(int, each["--clients"].split("-"))) for each in options]
    dealt = [client for first, last in bounds for client in range(first, last + 1)]
    assert dealt == list(range(clients))
    sizes = {last - first for first, last in bounds}
    assert max(sizes) - min(sizes) <= 1
    assert len(shares) == min(processes or cores or 1, clients)
    threads = {int(each["--threads"]) for each in options}
    assert len(threads) == 1
    assert len(shares) * min(threads) >= (cores or 1)
    assert min(threads) >= 2  # a cohort falls unevenly on the processes
