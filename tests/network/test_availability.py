"""When devices are there."""

import itertools
import math
from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.schema.network import Always, OnOff, PresenceTrace
from scenarios.schema.scenario import Scenario
from sim.network.availability import presence
from sim.network.csv_inputs import check_csv_inputs
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
        ("client,from_s,to_s\nc0,0,5\nc0,4,6\n", "presence.csv:3: times must be"),
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
    ],
    ids=["byte order mark", "spaces", "semicolons"],
)
def test_traces_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "presence.csv"
    file.write_text(text, encoding="utf-8")
    assert list(presence(PresenceTrace(file=file), seed=0, client="c0")) == [(0.0, 5.0), (7.5, math.inf)]


def with_trace(folder: Path, rows: str) -> Scenario:
    (folder / "presence.csv").write_text("client,from_s,to_s\n" + rows)
    return small_scenario(folder, f"fleet.0.availability={{pattern: trace, file: {folder}/presence.csv}}")


def test_a_trace_of_other_clients_is_refused(tmp_path: Path) -> None:
    told = r"presence\.csv names the clients 0, 1, but those here are c0 to c3"
    with pytest.raises(ScenarioError, match=told):
        check_csv_inputs(with_trace(tmp_path, "0,0,\n1,0,\n"))


def test_a_trace_that_ends_or_leaves_clients_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_csv_inputs(with_trace(tmp_path, "c0,0,50\nc1,0,60\n"))
    assert "after 60 s none of c0 to c3 is there any more" in caplog.text
    assert "2 of c0 to c3 are never there, such as c2" in caplog.text


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.csv"):
        list(presence(PresenceTrace(file=tmp_path / "nowhere.csv"), seed=0, client="c0"))
