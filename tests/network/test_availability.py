"""When devices are there."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.schema.network import Always, OnOff, PresenceTrace
from scenarios.schema.scenario import Scenario
from sim.network.availability import presence
from sim.network.csv_inputs import check_csv_inputs, read_presence
from tests.helpers import small_scenario


def test_by_default_a_device_never_leaves() -> None:
    assert list(presence(Always(), seed=0, client="c0")) == [(0.0, math.inf)]


def test_on_off_intervals_are_in_order_and_repeat_with_the_seed() -> None:
    pattern = OnOff(mean_on_s=60, mean_off_s=30)
    first, again, other = (
        list(itertools.islice(presence(pattern, seed=1, client=client), 50)) for client in ("a", "a", "b")
    )
    assert first == again != other
    times = [time for interval in first for time in interval]
    assert times == sorted(times)


def test_on_off_is_there_for_its_share_of_the_time_from_the_start() -> None:
    pattern = OnOff(mean_on_s=60, mean_off_s=30)

    def there(client: str, at_s: float) -> bool:
        intervals = itertools.takewhile(lambda i: i[0] <= at_s, presence(pattern, seed=1, client=client))
        return any(from_s <= at_s < to_s for from_s, to_s in intervals)

    for at_s in (0.0, 20.0, 500.0):
        share = sum(there(f"c{n}", at_s) for n in range(2000)) / 2000
        assert share == pytest.approx(2 / 3, abs=0.04)


def test_a_trace_says_when_each_client_is_there(tmp_path: Path) -> None:
    file = tmp_path / "presence.csv"
    file.write_text("client,from_s,to_s\nc0,0,5\nc1,2,\nc0,7.5,9\n")
    trace = PresenceTrace(file=file)
    assert list(presence(trace, seed=0, client="c0")) == [(0.0, 5.0), (7.5, 9.0)]
    assert list(presence(trace, seed=0, client="c1")) == [(2.0, math.inf)]
    assert list(presence(trace, seed=0, client="c2")) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("client,from_s\nc0,1\n", "must name the columns client, from_s, to_s"),
        ("client,from_s,to_s\nc0,5,1\n", "presence.csv:2: times must be"),
        ("client,from_s,to_s\nc0,0,5\nc0,4,6\n", "presence.csv:3: times must be apart, but c0 is there"),
        ("client,from_s,to_s\nc0,4,\nc0,0,5\n", "presence.csv:2: times must be apart, but c0 is there"),
        ("name,start_s,to_s\nc0,0,5\n", "columns client, from_s, to_s, not name, start_s, to_s"),
        ("clients,from_s,to_s\nc0,0,5\n", "not clients, from_s, to_s; write client for clients"),
        (
            "c0,0,5\n",
            "presence.csv:1: the first line must name the columns client, from_s, to_s, not c0, 0, 5",
        ),
        ("", "presence.csv:1: the first line must name the columns client, from_s, to_s"),
        ("client,from_s,to_s\n", "no rows below the names"),
        ('client,from_s,to_s\n"c0,1,2\n', "presence.csv: not CSV: "),
        ("client,from_s,to_s\nc0,0,5,5,\n", "presence.csv:2: 5 values for 3 columns; write 0.5, not 0,5"),
        ("client,from_s,to_s\nc0,1s,5\n", "presence.csv:2: '1s' is no number"),
        ("client,from_s,to_s\nc0,soon,5\n", "presence.csv:2: 'soon' is no number"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "presence.csv"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=complaint):
        list(presence(PresenceTrace(file=file), seed=0, client="c0"))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffclient,from_s,to_s\nc0,0,5\nc0,7.5,\n",
        "client, from_s, to_s\n c0 , 0, 5\nc0, 7.5, \n\n",
        "client;from_s;to_s\nc0;0;5\nc0;7.5;\n",
        "client;from_s;to_s\nc0;0;5\nc0;7,5;\n",
        "client\tfrom_s\tto_s\nc0\t0\t5\nc0\t7.5\n",
        "# by hand\n\nclient,from_s,to_s\n# first\nc0,0,5\n\n,,\nc0,7.5,\n",
        "Client, From_S ,to-s\nc0,0,5\nc0,7.5,\n",
        "client,from_s,to_s\nc0,7.5,\nc0,0,5\n",
        "from_s,to_s,remark,client\n0,5,x,c0\n7.5,,,c0\n",
    ],
    ids=["byte order mark", "spaces", "semicolons", "decimal commas", "tabs", "comments", "capitals",
         "unsorted", "other columns"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_traces_of_spreadsheets_are_read(tmp_path: Path, text: str, encoding: str, ends: str) -> None:
    file = tmp_path / "presence.csv"
    file.write_bytes(text.replace("\n", ends).encode(encoding))
    assert list(presence(PresenceTrace(file=file), seed=0, client="c0")) == [(0.0, 5.0), (7.5, math.inf)]


def with_trace(folder: Path, rows: str, *, repeat: bool = False) -> Scenario:
    (folder / "presence.csv").write_text("client,from_s,to_s\n" + rows)
    read_presence.cache_clear()
    again = ", repeat: true" if repeat else ""
    return small_scenario(
        folder, f"fleet.0.availability={{pattern: trace, file: {folder}/presence.csv{again}}}"
    )


def test_a_trace_of_other_clients_is_refused(tmp_path: Path) -> None:
    told = r"presence\.csv names the clients 0, 1, but those here are c0 to c3; write c0 for 0"
    with pytest.raises(ScenarioError, match=told):
        check_csv_inputs(with_trace(tmp_path, "0,0,\n1,0,\n"))


def test_a_trace_that_ends_or_leaves_clients_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_csv_inputs(with_trace(tmp_path, "c0,0,50\nc1,0,60\n"))
    assert "after 60 s none of c0 to c3 is there any more" in caplog.text
    assert "2 of c0 to c3 are never there, such as c2" in caplog.text


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=8).filter(lambda gaps: len(gaps) % 2 == 0),
    st.integers(0, 5),
    st.floats(0, 200),
)
def test_a_trace_that_repeats_says_the_same_in_each_period(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], first: int, at_s: float
) -> None:
    times = list(itertools.accumulate(steps, initial=first))[: len(steps)]
    own = list(zip(times[::2], times[1::2], strict=True))
    period_s = times[-1] + 3 * (first % 2)  # another client may be there later
    file = tmp_path_factory.mktemp("presence") / "presence.csv"
    rows = [*(("c0", *interval) for interval in own), ("c1", 0, period_s)]
    file.write_text("client,from_s,to_s\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    trace = PresenceTrace(file=file, repeat=True)
    intervals = list(itertools.takewhile(lambda i: i[0] <= at_s, presence(trace, seed=0, client="c0")))
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(intervals))
    there = any(from_s <= at_s < to_s for from_s, to_s in intervals)
    assert there == any(from_s <= at_s % period_s < to_s for from_s, to_s in own)
    assert list(presence(trace, seed=0, client="c1")) == [(0.0, math.inf)]
    assert list(presence(trace, seed=0, client="c2")) == []


def test_a_trace_without_an_end_cannot_repeat(tmp_path: Path) -> None:
    scenario = with_trace(tmp_path, "c0,0,5\nc1,2,\nc2,0,1\nc3,0,1\n", repeat=True)
    with pytest.raises(ScenarioError, match=r"repeat: .*presence\.csv: a file with an empty to_s never ends"):
        check_csv_inputs(scenario)


def test_a_trace_that_repeats_is_not_told_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"c{number},0,5\n" for number in range(4))
    check_csv_inputs(with_trace(tmp_path, rows, repeat=True))
    assert caplog.text == ""
    check_csv_inputs(with_trace(tmp_path, rows))
    assert "`repeat: true` begins the file again" in caplog.text


def test_a_name_that_no_client_has_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_csv_inputs(with_trace(tmp_path, "c0,0,\nc1,0,\nC2,0,\nc3,0,\n"))
    assert "it names C2, which no client is called; write c2 for C2" in caplog.text


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.csv"):
        list(presence(PresenceTrace(file=tmp_path / "nowhere.csv"), seed=0, client="c0"))
