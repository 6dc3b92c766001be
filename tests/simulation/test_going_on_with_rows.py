"""Going on with a run whose devices get only those rows of the head that they need."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.codecs import TouchedRows
from broker.codecs.coding.row_set import encode_rows
from broker.codecs.heads.matrices import Shape
from scenarios.heads.payload import HeadCodec
from tests.helpers import small_scenario
from tests.simulation.test_going_on import POLICIES, STOPS, WORLD, Stops, anywhere, goes_on_as_without
from tests.training.test_own_rows import BY_ROWS


@anywhere(5)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from(["split", "fedavg"]),
    st.sampled_from([4, 8, 16]),
    st.sampled_from([0, 2]),
    STOPS,
)
@example(POLICIES[0], "split", 8, 2, [(False, 0.3), (True, 0.6), (False, 0.9)])
def test_it_comes_out_as_one_without_interruption(
    policy: str, method: str, bits: int, rank: int, stops: Stops
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        changes = (
            f"flows.head_state_down={{codec: touched_rows, bits: {bits}, rank: {rank}}}",
            "flows.own_rows=true",
            f"training.method={method}",
            "training.rounds=4",
        )
        scenario = small_scenario(folder, *WORLD, *BY_ROWS, *changes, f"stragglers={policy}")
        assert goes_on_as_without(stops, scenario, folder)


@settings(deadline=None, max_examples=50)
@given(
    shapes=st.lists(
        st.builds(Shape, st.integers(1, 30), st.integers(1, 40), st.booleans()), min_size=1, max_size=4
    ),
    rank=st.sampled_from([0, 3]),
    bits=st.sampled_from([4, 8, 16, 32]),
    statistics=st.integers(0, 3),
    touched=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_parts_of_a_hollow_head_are_as_long_as_those_of_the_head(
    shapes: list[Shape], rank: int, bits: int, statistics: int, touched: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(shape[:2]) * (rng.random((shape.rows, 1)) < touched) for shape in shapes]
    vector = np.concatenate([*(each.reshape(-1) for each in values), np.ones(statistics)]).astype(np.float32)
    head = HeadCodec(TouchedRows(bits=bits, rank=rank), statistics, tuple(shapes))
    payload = head.encode(vector, rng)
    hollow = head.hollow(payload)
    assert len(hollow) == len(payload)
    for share in (0.0, 0.5, 1.0):
        rows = b"".join(
            encode_rows(np.flatnonzero(rng.random(shape.rows) < share), shape.rows) for shape in shapes
        )
        assert len(head.part(hollow, rows)) == len(head.part(payload, rows))
