"""The page: what it reads, what it says, and that it needs nothing from anywhere else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.cli.wording import format_seconds
from broker.errors import ReportError
from server_node.vocabulary.ledger import CONTROL, FLOWS
from sim.report import words
from sim.report.rounds import RoundTime
from sim.report.runs import Run, Sweep, read_all
from sim.simulation.run import simulate
from tests.helpers import small_scenario

if TYPE_CHECKING:
    from server_node.summary import FlowRatio, Summary

EVIL = "</script><img src=http://evil.example/x onerror=alert(1)>"
FLEET = "fleet=[{count: 3, link: wifi, device: x86-core}, {count: 1, link: nb-iot}]"


class Page(HTMLParser):
    """Collects what a browser would load, and the text outside scripts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "data", "onerror")]

    def handle_data(self, data: str) -> None:
        self.text += "" if self.get_starttag_text() in ("<script>", "<style>") else f"{data}\n"


def report(*arguments: Path | str) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def row(number: int, metric: float | None, each_flow: int, elapsed_s: float) -> dict[str, Any]:
    flows = {f"{name}_wire_bytes": each_flow for name in FLOWS} | {f"{CONTROL}_wire_bytes": 0}
    return {"round": number, "metric": metric, "elapsed_s": elapsed_s, **flows}


def made_run(folder: Path, rows: list[dict[str, Any]], *, name: str = "made", **keys: Any) -> Path:
    """Write a run folder by hand: a live one, without a trace."""
    folder.mkdir()
    (folder / "scenario.yaml").write_text(yaml.safe_dump({"name": name, **keys}))
    pq.write_table(pa.Table.from_pylist(rows), folder / "metrics.parquet")
    scores = [row["metric"] for row in rows if row["metric"] is not None]
    wire = {name: rows[-1][f"{name}_wire_bytes"] for name in (*FLOWS, CONTROL)}
    ratio: FlowRatio = {"wire_vs_float32": 10.0}
    summary: Summary = {
        "scenario": name, "task": "corners", "mode": "live", "seed": 3, "reason": "complete",
        "rounds": len(rows), "metric": {"name": "accuracy", "final": scores[-1], "best": max(scores)},
        "clients": 4, "client_steps": 9, "client_steps_per_second": 1.0, "wall_seconds": 9.0,
        "training_seconds": 9.0, "virtual_seconds": None,
        "bytes": {flow: {"payload": size, "wire": size, "raw_float32": 10 * size}
                  for flow, size in wire.items()},
        "ratio": {"activations_up": ratio, "gradient_down": ratio, "head_update_up": ratio,
                  "head_state_down": ratio, "total_both_directions": 10.0},
        "messages": {"sent": 1, "received": 1, "rejected": 0, "rejected_by_reason": {}, "duplicates": 0,
                     "discarded_late": 0},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def made_sweep(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    points = [(0.5, 10), (0.8, 20), (0.7, 30), (0.9, 40), (None, 5)]
    rows = [
        {"training.head_lr": 0.1 * number, "flows.gradient_down.codec": EVIL, "run": f"p{number}",
         "scenario": "made", "task": "corners", "seed": 3, "mode": "simulate", "metric.name": "accuracy",
         "metric.final": metric, "bytes.activations_up.wire": size, "bytes.control.wire": 0,
         "virtual_seconds": 9.0, "error": None if metric else "data are missing", **more}
        for number, (metric, size) in enumerate(points)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "sweep.parquet")
    return folder


def run_of(folder: Path) -> Run:
    return read_all([folder])[0][0]


def test_a_simulated_run_becomes_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    simulate(small_scenario(tmp_path, "training.rounds=6", "training.evaluate_every=2", FLEET), folder)
    assert report(folder) == f"report in {folder / 'report.html'}\n"
    page = Page(folder / "report.html")
    assert page.loads == []
    assert {"link", "iframe", "object", "img"} & set(page.tags) == set()
    source = (folder / "report.html").read_text()
    assert source.count("Plotly.newPlot(") - source.count('"Plotly.newPlot(') >= 5
    for drawn in ("chart-1-1", "chart-1-2", "chart-2-1", "chart-3-1", "chart-4-1"):
        assert f'id="{drawn}"' in source
    for said in (
        "simulated, in virtual time", "seed 3", "What did accuracy cost", "Which way did the bytes go?",
        "Where did each round's time go?", "Who held up which round?", "Most often it was c3",
    ):  # fmt: skip
        assert said in page.text
    report(folder, "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == source


def test_several_runs_are_held_against_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, 0.4, 10, 1.0), row(2, 0.8, 20, 2.0)]
    one = made_run(tmp_path / "one", rows, seed=1, task={"name": "same"})
    two = made_run(tmp_path / "two", rows, seed=2, task={"name": "same"})
    assert report(one, two) == "report in report.html\n"
    text = Page(tmp_path / "report.html").text
    assert "in which the scenarios differ: 1." in text
    assert "task.name" not in text
    assert "To accuracy 0.800, which all reached, it took one 80 B" in text


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    hostile = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)], name=EVIL, **{EVIL: EVIL})
    other = made_run(tmp_path / "other", [row(1, 0.4, 10, 1.0)], name="other")
    file = tmp_path / "report.html"
    report(hostile, other, made_sweep(tmp_path / "sweep"), "--out", file)
    page = Page(file)
    assert page.loads == []
    assert "img" not in page.tags
    assert EVIL in page.text
    assert "<img" not in re.sub(r"<script>.*?</script>", "", file.read_text(), flags=re.DOTALL)
    charts = "".join(
        re.findall(r'Plotly\.newPlot\(\s*"chart-.*?</script>', file.read_text(), flags=re.DOTALL)
    )
    assert "\\u003cimg" not in charts  # Plotly makes elements of some tags in texts


def test_a_run_without_a_trace_says_what_is_missing(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)])
    report(folder)
    text = Page(folder / "report.html").text
    assert f"{folder / 'trace.json'} is missing" in text
    assert "live, in real time" in text


def test_a_sweep_shows_its_front_and_every_point(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid")
    report(folder)
    text = Page(folder / "report.html").text
    assert "The best of 4 points reached 0.900 after 40 B and 9 s (training.head_lr 0.3" in text
    assert "; the cheapest one 0.500 after 10 B" in text
    assert "the quickest one" not in text
    assert "p4: data are missing" in text
    assert 'id="chart-1-2"' in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("scenario.yaml", None, "missing; fedlite run and fedlite simulate write it"),
        ("summary.json", None, "missing; fedlite run and fedlite simulate write it when the run ends"),
        ("metrics.parquet", None, "missing; fedlite run and fedlite simulate write it"),
        ("scenario.yaml", "a: [", "cannot be read ("),
        ("scenario.yaml", "- a", "cannot be read (no mapping)"),
        ("summary.json", "{}", "cannot be read (Object missing required field `scenario`)"),
        ("metrics.parquet", "PAR1", "cannot be read ("),
        ("trace.json", "{", "cannot be read (Input data was truncated)"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(
    tmp_path: Path, name: str, content: str | None, why: str
) -> None:
    folder = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)])
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 2
    assert f"{folder / name}: {why}" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_summary_without_a_flow_is_told_in_one_line(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)])
    summary = json.loads((folder / "summary.json").read_text())
    del summary["bytes"]["gradient_down"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ReportError, match=r"summary\.json: cannot be read \(no bytes of gradient_down"):
        read_all([folder])


def test_a_reading_says_what_the_metric_cost(tmp_path: Path) -> None:
    rows = [row(1, 0.2, 1000, 1.0), row(2, None, 2000, 2.0), row(3, 0.5, 3000, 3.0), row(4, 0.8, 5000, 7.5)]
    assert words.learning(run_of(made_run(tmp_path / "run", rows))) == (
        "Reached accuracy 0.800 after 20.0 kB, that is 5.0 kB per client of the fleet, and 7.5 s of real "
        "time; half of it was there after 12.0 kB and 3 s of real time."
    )


def test_a_score_that_fell_again_is_not_hidden(tmp_path: Path) -> None:
    rows = [row(1, 0.6, 10, 1.0), row(2, 0.5, 20, 2.0)]
    text = words.learning(run_of(made_run(tmp_path / "run", rows)))
    assert "0.500 (best 0.600, round 1)" in text
    assert "already at the first look" in text


def test_of_a_loss_the_lowest_is_the_best(tmp_path: Path) -> None:
    rows = [row(1, 4.0, 10, 1.0), row(2, 1.0, 20, 2.0), row(3, 2.0, 30, 3.0)]
    run = run_of(made_run(tmp_path / "run", rows))
    run.summary["metric"]["better"] = "lower"
    text = words.learning(run)
    assert "2.000 (best 1.000, round 2)" in text
    assert "half of the way from 4.000 was there after 80 B and 2 s" in text
    other = run_of(made_run(tmp_path / "other", [row(1, 3.0, 10, 1.0), row(2, 2.5, 20, 2.0)]))
    other.summary["metric"]["better"] = "lower"
    assert "To accuracy 2.500, which all reached" in str(words.race([run, other]))


def test_a_metric_below_zero_has_a_way_too(tmp_path: Path) -> None:
    rows = [row(1, -4.0, 10, 1.0), row(2, -2.5, 20, 2.0), row(3, -2.0, 30, 3.0)]
    assert "half of the way from -4.000 was there after" in words.learning(
        run_of(made_run(tmp_path / "run", rows))
    )


def test_only_a_notable_loss_counts_as_held_up() -> None:
    times = [
        RoundTime(1, 10.0, {"compute": 10.0}, "a", "compute", 5.0),
        RoundTime(2, 10.0, {"compute": 10.0}, "b", "compute", 0.5),
        RoundTime(3, 20.0, {"uplink": 20.0}, "a", "uplink", 15.0),
    ]
    assert [time.round for time in words.held_up(times)] == [3, 1]
    assert words.stragglers(times) == (
        "2 of 3 rounds were held up (1 by its uplink, 1 by computing) and lost 20 s against the median "
        "client, 50% of the time. Most often it was a (2 of them)."
    )
    assert words.where_time_went(times) == (
        "50% of the 40 s went into devices computing, 50% into the way up. "
        "The longest round was 3, 20 s; the mean is 13.3 s."
    )


def test_the_front_keeps_what_nothing_else_beats() -> None:
    rows = [
        {words.TOTAL: size, words.SECONDS: 5 - size, "metric.final": score}
        for size, score in ((2, 0.5), (1, 0.5), (3, 0.4), (4, 0.6))
    ]
    assert words.pareto(rows, words.TOTAL) == [rows[1], rows[3]]
    assert words.pareto(rows, words.SECONDS) == [rows[3]]
    losses = [each | {"metric.better": "lower"} for each in rows]
    assert words.pareto(losses, words.TOTAL) == [losses[1], losses[2]]
    assert words.sweep_front(Sweep(Path(), (), [])).startswith("None of the 0 points has a metric")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0125, "12.5 ms"), (90, "90 s"), (600, "10 min"), (9000, "2.5 h"), (259_200, "3.0 d")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
