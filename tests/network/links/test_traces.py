"""Files of traces: what is read, what is refused and how, and what recordings and other tools become."""

import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.errors import ScenarioError
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.links import GilbertElliott, Link, LinkState
from sim.network.csv_inputs import check_csv_inputs
from sim.network.links.importing.converters import NETEM, joined, mobile_log, netem, rates_of, toxiproxy
from sim.network.links.importing.generators import GENERATORS, Row
from sim.network.links.importing.writing import as_csv
from sim.network.links.traces import read_trace, shipped_traces


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    read_trace.cache_clear()
    return file


def test_a_trace_counts_from_its_first_row_and_its_last_one_is_as_long_as_the_one_before(
    tmp_path: Path,
) -> None:
    trace = read_trace(
        str(
            written(
                tmp_path, "\ufefftime_s; loss;uplink_kbps\n5;0.1; 8\n7; ;16\n8;0,1;\n".replace("0,1", "0.2")
            )
        )
    )
    assert (trace.times_s, trace.length_s) == ((0.0, 2.0, 3.0), 4.0)
    assert trace.states == (
        LinkState(loss=0.1, uplink_kbps=8),
        LinkState(uplink_kbps=16),
        LinkState(loss=0.2),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must name the columns time_s"),
        ("seconds,uplink_kbps\n", "must name the columns time_s, not seconds, uplink_kbps"),
        ("time_s,uplink_mbps\n0,1\n1,2\n", "unknown column 'uplink_mbps'; did you mean 'uplink_kbps'?"),
        ("time_s,uplink_kbps\n0,1\n", "at least two rows"),
        ("time_s,uplink_kbps\n0,1\n0,2\n", ":3: time_s must be a number after that of the row above"),
        ("time_s,uplink_kbps\n0,1\nnan,2\n", ":3: time_s must be a number after"),
        ("time_s,uplink_kbps\n0,1\ninf,2\n", ":3: time_s must be a number after"),
        ("time_s,uplink_kbps\n0,-1\n1,2\n", ":2: uplink_kbps must be 0 or more, not -1"),
        ("time_s,uplink_kbps\n0,nan\n1,2\n", ":2: uplink_kbps must be 0 or more, not nan"),
        ("time_s,loss\n0,30\n1,0\n", ":2: loss must be 0 or more and at most 0.5, a share, not 30"),
        ("time_s,downlink_kbps\n0,0\n1,0\n", "downlink_kbps is 0 in every row: nothing would ever arrive"),
        ("time_s,uplink_kbps\n0,fast\n1,2\n", ":2: 'fast' is no number"),
        ("time_s,loss,loss\n0,0,0\n1,0,0\n", ":1: two columns are called loss; leave one of them out"),
        ("time_s,loss\n-1e308,0\n1e308,0\n", "-1e+308 s to 1e+308 s is longer than can be counted"),
    ],
)
def test_what_is_no_trace_is_refused_in_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        read_trace(str(written(tmp_path, text)))
    assert why in str(refused.value)


STATE = st.builds(
    LinkState,
    uplink_kbps=st.integers(1, 10**6),
    downlink_kbps=st.none() | st.integers(1, 10**6),
    latency_ms=st.none() | st.integers(0, 1000),
    loss=st.none() | st.sampled_from([0.0, 0.01, 0.5]),
)


@given(st.lists(STATE, min_size=2, max_size=9), st.sampled_from([0.1, 1.0, 60.0]))
def test_a_trace_that_was_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, states: list[LinkState], step_s: float
) -> None:
    folder = tmp_path_factory.mktemp("trace")
    text = as_csv(Row(round(number * step_s, 6), state) for number, state in enumerate(states))
    trace = read_trace(str(written(folder, text, f"{abs(hash(text))}.csv")))
    assert trace.states == tuple(states)
    assert trace.times_s == pytest.approx([number * step_s for number in range(len(states))])


@pytest.mark.parametrize("name", shipped_traces())
def test_shipped_traces_are_what_their_rules_make_of_seed_0(name: str) -> None:
    assert shipped_traces()[name].read_text() == as_csv(GENERATORS[name].rows(0))
    assert as_csv(GENERATORS[name].rows(1)) != as_csv(GENERATORS[name].rows(0))
    trace = read_trace(name)
    assert trace.length_s == 600
    for rate in ("uplink_kbps", "downlink_kbps"):
        assert any(getattr(state, rate) for state in trace.states)


def scenario_with(folder: Path, link: str, network: str = "{}") -> Path:
    return written(
        folder,
        f"name: traced\nextends: quickstart\ntraining: {{cohort: 3}}\n"
        f"fleet: [{{count: 4, link: {link}}}]\nnetwork: {network}\n",
        "traced.yaml",
    )


def test_a_scenario_names_a_trace_relative_to_itself_or_a_shipped_one(tmp_path: Path) -> None:
    file = written(tmp_path, "time_s,uplink_kbps\n0,8\n1,16\n")
    point = "{access_points: {roof: {trace: trace.csv, repeat: false}}}"
    loaded = load_scenario(str(scenario_with(tmp_path, "{trace: trace.csv}", point)))
    assert isinstance(link := loaded.fleet[0].link, Link)
    assert link.trace == loaded.network.access_points["roof"].trace == str(file)
    shipped = load_scenario(str(scenario_with(tmp_path, "{trace: train-lte, start: together}")))
    assert isinstance(link := shipped.fleet[0].link, Link)
    assert link.trace == "train-lte"
    for each in (loaded, shipped):
        assert load_scenario(str(written(tmp_path, dump_resolved(each), "again.yaml"))) == each
        check_csv_inputs(each)


@pytest.mark.parametrize(
    ("link", "network", "why"),
    [
        (
            "{trace: train-lt}",
            "{}",
            "fleet.0.link.trace: unknown trace 'train-lt'; did you mean 'train-lte'?",
        ),
        ("{trace: none.csv}", "{}", "none.csv: cannot be read"),
        ("lte", "{server: {link: {trace: x}}}", "network.server.link.trace: unknown trace 'x'"),
        ("lte", "{access_points: {roof: {trace: x}}}", "network.access_points.roof.trace: unknown trace"),
        ("{trace: ends.csv, repeat: false}", "{}", "an outage that without repeat never ends"),
    ],
)
def test_a_trace_that_cannot_be_used_is_told_with_its_key(
    tmp_path: Path, link: str, network: str, why: str
) -> None:
    written(tmp_path, "time_s,uplink_kbps\n0,8\n1,0\n", "ends.csv")
    with pytest.raises(ScenarioError) as refused:
        check_csv_inputs(load_scenario(str(scenario_with(tmp_path, link, network))))
    assert why in str(refused.value)


def test_mahimahis_packets_are_counted_in_steps(tmp_path: Path) -> None:
    file = written(tmp_path, "0\n0\n40\n250\n", "up.mahi")
    # 3 packets of 12,000 bits in the first 0.1 s, one in the 0.15 s after which the file begins anew
    assert [pytest.approx(pair) for pair in rates_of(file, 0.1)] == [(0.0, 360.0), (0.1, 80.0)]


@pytest.mark.parametrize("text", ["1\n", "1\r\n", "1\n2\n", "1\n2\n3\n4\n", "\ufeff1\n"])
def test_mahimahis_constant_rate_is_one(tmp_path: Path, text: str) -> None:
    assert rates_of(written(tmp_path, text), 0.1) == [(0.0, 12_000.0), (0.1, 12_000.0)]


@given(
    gaps_ms=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    every_ms=st.sampled_from([1, 10, 100, 300, 1000]),
)
def test_mahimahis_packets_are_all_in_the_rates(gaps_ms: list[int], every_ms: int) -> None:
    times_ms = list(itertools.accumulate(gaps_ms))
    assume(times_ms[-1] > 0)
    with tempfile.TemporaryDirectory() as folder:
        rates = rates_of(written(Path(folder), "".join(f"{each}\n" for each in times_ms)), every_ms / 1000)
    ends = [time_s for time_s, _ in rates[1:]] + [times_ms[-1] / 1000]
    if times_ms[-1] < 1.5 * every_ms:  # a constant rate, whose second row says the same
        ends[0] = times_ms[-1] / 1000
        del rates[1:], ends[1:]
    bits = sum(1000 * kbps * (end_s - from_s) for (from_s, kbps), end_s in zip(rates, ends, strict=True))
    assert bits == pytest.approx(12_000 * len(times_ms))


def test_packets_on_the_edge_of_a_step_are_in_the_next_one(tmp_path: Path) -> None:
    text = "".join(f"{time_ms}\n" for time_ms in range(0, 1000, 100))  # 0.3 s / 0.1 s is below 3
    assert [kbps for _, kbps in rates_of(written(tmp_path, text), 0.1)][:8] == pytest.approx([120.0] * 8)


@pytest.mark.parametrize(
    "text",
    ["0 1.5\n1 2\n", "0;1,5\n1;2\n", "0\t1,5\r\n1\t2\r\n", "0,1.5\n1,2\n", "seconds Mbit/s\n0 1.5\n1 2\n"],
)
def test_rates_are_read_as_whatever_program_wrote_them(tmp_path: Path, text: str) -> None:
    assert rates_of(written(tmp_path, text), 0.1) == [(0.0, 1500.0), (1.0, 2000.0)]


def test_a_phones_log_may_have_semicolons(tmp_path: Path) -> None:
    text = "\ufeffTimestamp;DL_bitrate;UL_bitrate\r\n2019.12.14_10.16.30;1,5;2\r\n"
    [row] = mobile_log(written(tmp_path, text))
    assert (row.state.downlink_kbps, row.state.uplink_kbps) == (1.5, 2.0)


def test_a_trace_that_no_run_could_use_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    log, to = written(tmp_path, "0 0\n1 0\n", "down.log"), written(tmp_path, "before", "link.csv")
    told = CliRunner().invoke(app, ["links", "convert", str(log), "--to", str(to)])
    assert told.exit_code == 2
    assert told.output == f"error: {to}: downlink_kbps is 0 in every row: nothing would ever arrive\n"
    assert to.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_logs_of_seconds_and_megabits_or_of_bytes_and_milliseconds(tmp_path: Path) -> None:
    file = written(tmp_path, "# FCC\n10.0 2.5\n10.5\t0\n", "log.txt")
    assert rates_of(file, 1.0) == [(0.0, 2500.0), (0.5, 0.0)]
    riiser = "1289406399 549893 59.851 10.781 1000 1000\n1289406400 550893 59.851 10.781 0 500\n"
    assert rates_of(written(tmp_path, riiser, "hsdpa.log"), 1.0) == [(0.0, 8.0), (1.0, 0.0)]


@pytest.mark.parametrize("text", ["", "1 2 3\n", "1 2\n3\n", "a\n", "-1\n", "nan\n", "1e400\n", "0\n"])
def test_a_recording_of_no_known_form_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScenarioError):
        rates_of(written(tmp_path, text, "log"), 1.0)


def test_both_directions_are_joined_at_the_times_of_either() -> None:
    rows = list(joined([(0.0, 1.0), (2.0, 2.0)], [(0.0, 10.0), (1.0, 20.0)]))
    assert [(row.time_s, row.state.uplink_kbps, row.state.downlink_kbps) for row in rows] == [
        (0.0, 1.0, 10.0),
        (1.0, 1.0, 20.0),
        (2.0, 2.0, 20.0),
    ]


def test_settings_of_netem() -> None:
    command = "tc qdisc add dev eth0 root netem delay 100ms 20ms 25% distribution normal loss 0.3% rate 1mbit"
    link = Link(
        uplink_kbps=1000, downlink_kbps=1000, latency_ms=100, jitter_ms=20, jitter_per="packet", loss=0.003
    )
    assert netem(command) == link
    assert netem("loss gemodel 1% 10% 70% 0.1%").loss == GilbertElliott(
        p=0.01, r=0.1, loss_in_bad=0.7, loss_in_good=0.001
    )
    assert netem("delay 500 limit 1000 rate 1mbps") == Link(
        latency_ms=0.5, uplink_kbps=8000, downlink_kbps=8000
    )


@pytest.mark.parametrize("text", ["duplicate 1%", "delay", "delay soon", "loss", "loss random x", "rate 5x"])
def test_what_netem_has_and_links_have_not_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError):
        netem(text)


def test_toxics_of_toxiproxy() -> None:
    toxics = [
        {"type": "bandwidth", "stream": "upstream", "attributes": {"rate": 100}},
        {"type": "latency", "stream": "downstream", "attributes": {"latency": 80, "jitter": 0}},
    ]
    assert toxiproxy(json.dumps(toxics)) == Link(uplink_kbps=800, latency_ms=40, jitter="uniform")
    for text in ("{", "[{}]", "[3]", "7", json.dumps([{"type": "slicer", "attributes": {}}])):
        with pytest.raises(ScenarioError):
            toxiproxy(text)


def fedlite(*words: str) -> str:
    result = CliRunner().invoke(app, ["links", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(tmp_path: Path) -> None:
    assert "train-lte" in fedlite("list")
    made = tmp_path / "made.csv"
    assert "600 s" in fedlite("make", "walk-5g", "--seed", "3", "--to", str(made))
    fedlite("plot", str(made), "--to", str(tmp_path / "made.svg"))
    assert "<svg" in (tmp_path / "made.svg").read_text()
    down = written(tmp_path, "0 1.5\n1 3\n", "down.log")
    fedlite("convert", str(down), "--up", str(down), "--to", str(tmp_path / "both.csv"))
    assert (
        tmp_path / "both.csv"
    ).read_text() == "time_s,uplink_kbps,downlink_kbps\n0,1500,1500\n1,3000,3000\n"
    phone = written(
        tmp_path,
        "Timestamp,DL_bitrate,UL_bitrate,PINGAVG\n2019.12.14_10.16.30,100,20,50\n2019.12.14_10.16.31,90,10,-\n",
        "phone.csv",
    )
    fedlite("convert", str(phone), "--to", str(tmp_path / "phone-trace.csv"))
    assert read_trace(str(tmp_path / "phone-trace.csv")).states == (
        LinkState(downlink_kbps=100, uplink_kbps=20, latency_ms=25),
        LinkState(downlink_kbps=90, uplink_kbps=10),
    )
    settings = written(tmp_path, "delay 100ms loss 1%", "netem")
    assert (
        fedlite("convert", str(settings), "--settings", "netem")
        == "link:\n  latency_ms: 100.0\n  loss: 0.01\n"
    )


def test_a_run_behind_traces_is_the_same_run_again(tmp_path: Path) -> None:
    states = (
        "{mean_s: 5, uplink_kbps: 300, downlink_kbps: 900}, {mean_s: 1, uplink_kbps: 0, downlink_kbps: 100}"
    )
    point = f"{{access_points: {{roof: {{states: [{states}]}}}}}}"
    scenario = scenario_with(tmp_path, "{trace: train-lte}, via: roof", point)
    runs = []
    for name in ("a", "b"):
        words = [
            "simulate",
            str(scenario),
            "--timing-only",
            "--set",
            "training.rounds=6",
            "--out",
            str(tmp_path / name),
        ]
        assert CliRunner().invoke(app, words).exit_code == 0
        runs.append((tmp_path / name / "metrics.parquet").read_bytes())
    assert runs[0] == runs[1]


WORDS = st.one_of(
    st.sampled_from([*NETEM, "netem", "random", "gemodel", "normal", "pareto"]),
    st.builds(
        lambda number, unit: f"{number}{unit}",
        st.integers(-1, 300)
        | st.floats(width=32)
        | st.sampled_from(["1.2.3", ".", "9" * 400, "1e9", "\u0663"]),
        st.sampled_from(["", "%", "ms", "us", "s", "mbit", "kbps", "parsec"]),
    ),
    st.text(max_size=6),
)
NUMBERS: st.SearchStrategy[object] = (
    st.integers(-2, 10**7) | st.floats() | st.sampled_from([0, -1, 10**400, "7", None, [], True])
)
TOXICS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["latency", "bandwidth", "bandwidth", "slicer"]),
            "attributes": st.fixed_dictionaries(dict.fromkeys(("latency", "jitter", "rate"), NUMBERS)),
        },
        optional={"stream": st.sampled_from(["upstream", "downstream", 3])},
    ),
    max_size=2,
)


def assert_made_or_told(make: Callable[[], object]) -> None:
    """Do something with what somebody wrote: it works, or is refused in one sentence of our own."""
    told = ""
    try:
        make()
    except ScenarioError as refused:
        told = str(refused)
    assert not any(words in told for words in ("\n", "Input should", "validation error"))


VALUES = st.tuples(
    st.sampled_from(["0", "0.0", "1", "7.5", "60", "1.2.3", ".", "-1", "9" * 400]),
    st.sampled_from(["", "%", "ms", "us", "s", "mbit", "kbps"]),
).map("".join)
SAID = st.lists(st.tuples(st.sampled_from(list(NETEM)), VALUES).map(" ".join) | WORDS, min_size=1, max_size=3)


@given(SAID)
def test_any_words_are_settings_of_netem_or_refused(words: list[str]) -> None:
    assert_made_or_told(lambda: netem(" ".join(words)))


@given(TOXICS | st.dictionaries(st.sampled_from(["toxics", "name"]), TOXICS | NUMBERS) | NUMBERS | st.text())
def test_anything_is_toxics_or_refused(value: object) -> None:
    assert_made_or_told(lambda: toxiproxy(json.dumps(value)))
    assert_made_or_told(lambda: toxiproxy(str(value)))


LINES = st.lists(st.lists(WORDS, max_size=7).map(" ".join) | st.text(), max_size=5)
PHONES = st.lists(
    st.tuples(st.sampled_from(["2019.12.14_10.16.30", "2019.12.14_10.16.31", ""]), WORDS, WORDS, WORDS).map(
        ",".join
    ),
    max_size=4,
)


@given(LINES, PHONES, st.sampled_from(["utf-8", "utf-16", "latin-1"]))
def test_any_file_is_a_recording_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], phones: list[str], encoding: str
) -> None:
    file = tmp_path_factory.mktemp("any") / "file"
    for text in ("\n".join(lines), "\n".join(["Timestamp,DL_bitrate,UL_bitrate,PINGAVG", *phones])):
        file.write_bytes(text.encode(encoding, "replace"))
        assert_made_or_told(lambda: as_csv(joined(rates_of(file, 0.1), [])))
        assert_made_or_told(lambda: as_csv(mobile_log(file)))
    for names in ("time_s,uplink_kbps,loss", "time_s;latency_ms", "time_s"):
        read_trace.cache_clear()
        file.write_bytes("\n".join([names, *lines, *phones]).encode(encoding, "replace"))
        assert_made_or_told(lambda: read_trace(str(file)))
