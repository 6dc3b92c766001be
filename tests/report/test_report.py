"""The page: what it reads, what it says, and that it needs nothing from anywhere else."""

import csv
import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.cli.wording import format_seconds
from broker.errors import ReportError
from server_node.record import RunFolder
from server_node.vocabulary.ledger import CONTROL, FLOWS, Ledger
from server_node.vocabulary.reports import RoundReport
from sim.report import words
from sim.report.compared import compared_sweep
from sim.report.groups import groups_of
from sim.report.lanes import OWN_CORES
from sim.report.rounds import RoundTime
from sim.report.runs import Run, read_all
from sim.report.trials import trials_of_runs, trials_of_sweep
from sim.report.unfinished import as_swept
from sim.simulation.run import simulate
from sim.statistics.comparison import compare
from sim.statistics.curve_charts import along
from sim.statistics.drawing import write_figures
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
        "scenario": name, "task": "corners", "mode": "live", "seed": keys.get("seed", 3),
        "reason": "complete",
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


def made_sweep(folder: Path, *, seeds: int = 3, metric: str = "accuracy", **more: Any) -> Path:
    """Write a sweep by hand: two rates and two codecs, one with a hostile name, and a point that failed."""
    folder.mkdir()
    rows = []
    for number, (codec, rate, seed) in enumerate(itertools.product((EVIL, "int8"), (1, 100), range(seeds))):
        final = 0.5 + 0.3 * (codec == EVIL) + 0.01 * seed + 0.001 * number
        run, size = f"p{number}", 40 if codec == EVIL else 80
        rows.append(
            {"flows.gradient_down.codec": codec, "fleet.0.link.uplink_kbps": rate, "seed": seed, "run": run,
             "scenario": "made", "task": "corners", "mode": "simulate", "metric.name": metric,
             "metric.final": final, "bytes.activations_up.wire": size, "bytes.control.wire": 0,
             "virtual_seconds": 90.0 / rate + seed, "error": None, **more}
        )  # fmt: skip
        (folder / run).mkdir()
        rounds = [row(n, final * n / 4 if n % 2 == 0 else None, size * n // 20, (90.0 / rate + seed) * n / 4)
                  for n in (1, 2, 3, 4)]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rounds), folder / run / "metrics.parquet")
    rows.append({**rows[-1], "seed": seeds, "run": "lost", "metric.final": None, "error": "data are missing"})
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
    assert page.tags.count("svg") - source.count('aria-hidden="true"') == 5
    assert "script" not in page.tags
    assert len(source) < 300_000
    for said in (
        "simulated, in virtual time", "seed 3", "What did accuracy cost", "Which way did the bytes go?",
        "Where did each round's time go?", "Who held up which round?", "Most often it was c3, nb-iot",
    ):  # fmt: skip
        assert said in page.text
    report(folder, "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == source


def test_where_nothing_takes_time_the_page_asks_for_bytes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    simulate(small_scenario(tmp_path, "training.rounds=2", "training.evaluate_every=1"), folder)
    report(folder)
    page = Page(folder / "report.html")
    assert "What did accuracy cost, in bytes?" in page.text
    assert "links and devices of this fleet take none" in page.text
    assert "of virtual time" not in page.text
    assert page.tags.count("svg") - (folder / "report.html").read_text().count('aria-hidden="true"') == 2


def test_several_runs_are_held_against_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, 0.4, 10, 1.0), row(2, 0.8, 20, 2.0)]
    one = made_run(tmp_path / "one", rows, seed=1, task={"name": "same"})
    two = made_run(tmp_path / "two", rows, seed=2, task={"name": "same"})
    assert report(one, two) == "report in report.html\n"
    text = Page(tmp_path / "report.html").text
    assert "The scenarios do not differ in any setting but name and seed." in text
    assert "task.name" not in text
    assert "The target is accuracy 0.8, the best that every run reached" in text
    assert "2 of 2" in text  # one setting with two seeds


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    hostile = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)], name=EVIL, **{EVIL: EVIL})
    other = made_run(tmp_path / "other", [row(1, 0.4, 10, 1.0)], name="other")
    file = tmp_path / "report.html"
    report(hostile, other, made_sweep(tmp_path / "sweep"), "--out", file)
    page = Page(file)
    assert page.loads == []
    assert "img" not in page.tags
    assert EVIL in page.text
    assert {"script", "iframe", "link", "a"} & set(page.tags) == set()


def test_a_run_without_a_trace_says_what_is_missing(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)])
    report(folder)
    text = Page(folder / "report.html").text
    assert f"{folder / 'trace.json'} is missing" in text
    assert "live, in real time" in text


def headings(file: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", file.read_text())


def test_a_sweep_answers_what_it_asks(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid")
    report(folder)
    file = folder / "report.html"
    assert headings(file) == [
        "grid: What did accuracy cost, in bytes and in time?",
        "grid: What does the same accuracy cost, and what is there after the same time?",
    ]
    text = Page(file).text
    assert "In each of 2 cases" in text
    assert "has the best mean and is better than int8." in text
    assert "Not counted: lost: failed: data are missing." in text
    assert file.read_text().count("<figcaption>uplink 100 kbit/s</figcaption>") == 2  # over time, over bytes
    for label in (
        "virtual time to 0.506",
        "bytes to 0.506",
        "uplink (kbit/s)",
        "virtual time",
        "accuracy after 900 ms",
    ):
        assert label in text
    assert "{" not in re.sub(r"<style>.*?</style>", "", file.read_text(), flags=re.DOTALL)


def test_the_target_and_the_key_are_chosen(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid")
    report(folder, "--target=0.99", "--by=uplink_kbps")
    text = Page(folder / "report.html").text
    assert "The target is accuracy 0.99. The same time" in text
    assert "0 of 3" in text
    assert "no setting reached it with every seed" in text
    result = CliRunner().invoke(app, ["report", str(folder), "--by=uplik_kbps"])
    assert result.exit_code == 2
    assert "did you mean 'uplink_kbps'" in result.output


def test_one_seed_is_never_ranked(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid", seeds=1)
    report(folder)
    text = Page(folder / "report.html").text
    assert "One seed each, so nothing is ranked" in text
    assert not re.search(r"\b(best mean|better|worse|winner|verdict|front)\b", text)


def test_an_untrained_sweep_is_about_time(tmp_path: Path) -> None:
    none: dict[str, Any] = {"metric.final": None}
    folder = made_sweep(tmp_path / "grid", **none)
    for file in folder.glob("p*/metrics.parquet"):
        rows = [{**each, "metric": None} for each in pq.read_table(file).to_pylist()]
        schema = pq.read_schema(file)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    report(folder)
    assert headings(folder / "report.html") == ["grid: How long do the rounds take?"]
    assert "uplink (kbit/s)" in Page(folder / "report.html").text


def test_figures_fit_a_column_and_tables_are_tidy(tmp_path: Path) -> None:
    folder, out = made_sweep(tmp_path / "grid"), tmp_path / "figures"
    assert report(folder, "--figures", out).endswith(f"figures and tables in {out}\n")
    names = {
        f"accuracy-over-{cost}-uplink-kbps={rate}" for cost in ("time", "bytes") for rate in (1, 100)
    } | {f"{what}-over-uplink-kbps" for what in ("seconds-to-target", "bytes-to-target", "metric")}
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert files.keys() == {f"{n}.{kind}" for n in names for kind in ("pdf", "svg", "png")} | {
        "curves.csv", "summary.csv",
    }  # fmt: skip
    width = int.from_bytes(files["metric-over-uplink-kbps.png"][16:20], "big")
    assert width == 3.3 * 300
    assert b"/Type3" not in files["metric-over-uplink-kbps.pdf"]
    with (out / "curves.csv").open() as text:
        curves = list(csv.DictReader(text))
    keys = ["flows.gradient_down.codec", "fleet.0.link.uplink_kbps"]
    assert list(curves[0]) == [*keys, "seed", "round", "seconds", "bytes", "metric"]
    assert len(curves) == 2 * 2 * 3 * 4
    assert {each["metric"] for each in curves if each["round"] == "1"} == {""}
    with (out / "summary.csv").open() as text:
        summary = list(csv.DictReader(text))
    assert [(each["seeds"], each["not_counted"], each["verdict"]) for each in summary] == [
        ("3", "0", ""), ("3", "0", "worse"), ("3", "0", ""), ("3", "1", "worse"),
    ]  # fmt: skip
    again = compared_sweep(read_all([folder])[1][0], None, None).costs[-1:]
    (tmp_path / "again").mkdir()
    assert all(file.read_bytes() == files[file.name] for file in write_figures(again, tmp_path / "again"))


def test_what_is_not_over_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid")
    begun = folder / ".p-begun.unfinished"
    begun.mkdir()
    link = {
        "fleet": [{"count": 2, "link": {"uplink_kbps": 1}}],
        "flows": {"gradient_down": {"codec": "int8"}},
    }
    (begun / "scenario.yaml").write_text(yaml.safe_dump({"seed": 7, **link}))
    pq.write_table(
        pa.Table.from_pylist([row(1, 0.2, 1, 1.0), row(2, 0.3, 2, 2.0)]), begun / "metrics.parquet"
    )
    (folder / ".other.unfinished").mkdir()
    report(folder)
    text = Page(folder / "report.html").text
    assert "1 more is not over." in text
    assert "p-begun: unfinished: 2 rounds so far" in text
    assert "3 (1 unfinished)" in text
    assert "Dotted lines are runs that are not over." in text


def test_a_point_that_is_not_over_stands_with_its_setting() -> None:
    swept = ['{"policy":"wait_all"}', '{"policy":"deadline","deadline_s":4}']
    assert as_swept({"rejoin_s": 10.0, "policy": "deadline", "deadline_s": 4.0}, swept) == swept[1]
    assert as_swept({"policy": "buffered"}, swept) == {"policy": "buffered"}
    assert as_swept(64, [32, 64]) == 64


def test_a_run_that_is_not_over_can_be_read(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", [row(1, 0.4, 10, 1.0)], training={"rounds": 50})
    (folder / "summary.json").unlink()
    report(folder)
    text = Page(folder / "report.html").text
    assert "It is not over, or was lost (unfinished: 1 of 50 rounds)" in text
    assert "Reached metric 0.400" in text  # of an earlier version, whose metrics have no name


def test_a_run_that_is_not_over_names_its_metric(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    record = RunFolder(tmp_path / "run", scenario, mode="live", metric="perplexity", ledger=Ledger())
    record.better = "lower"
    record.round(RoundReport(1, 2.0, 7.0, 3, 3, 0.1, 0.0, 4))
    report(tmp_path / "run")
    text = Page(tmp_path / "run" / "report.html").text
    assert "What did perplexity cost, in bytes and in time?" in text
    [run], _ = read_all([tmp_path / "run"])
    assert not run.higher_is_better


def test_a_point_that_is_not_over_names_its_metric_also_where_no_other_is(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid", metric="loss")
    begun = folder / ".p-begun.unfinished"
    begun.mkdir()
    (begun / "scenario.yaml").write_text(yaml.safe_dump({"seed": 7}))
    named = pa.Table.from_pylist([row(1, 0.2, 1, 1)]).replace_schema_metadata({"metric": "f1"})
    pq.write_table(named, begun / "metrics.parquet")
    assert {trial.metric_name for trial in trials_of_sweep(read_all([folder])[1][0])} == {"loss", "f1"}


def test_folders_with_something_else_are_told_apart_from_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.md").touch()
    told = CliRunner().invoke(app, ["report", str(tmp_path / "study")])
    assert told.exit_code == 2
    assert f"{tmp_path}/study has a study, whose tables are in {tmp_path}/study/results.md" in told.output
    (tmp_path / "sweep" / ".a=1.unfinished").mkdir(parents=True)
    told = CliRunner().invoke(app, ["compare", str(tmp_path / "sweep")])
    assert told.exit_code == 2
    assert "no run of this sweep or study is over yet; try again when one is" in told.output


def test_what_the_links_carried_stands_beside_the_packets_where_it_is_known(tmp_path: Path) -> None:
    folders = [made_run(tmp_path / name, [row(1, 0.4, 1_000, 1.0)], name=name) for name in "ab"]
    summary = json.loads((folders[0] / "summary.json").read_text())
    summary["links"] = {"up": 3_000, "down": 2_000, "ratio": 8.0, "how": "modelled"}
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    compared = CliRunner().invoke(app, ["compare", *map(str, folders)])
    first, *lines = [line.split() for line in compared.output.splitlines()[:3]]
    assert first == ["run", "accuracy", "bytes", "on", "links", "real", "s"]
    assert lines == [["a", "0.400", "4.0", "kB", "5.0", "kB", "1.0"], ["b", "0.400", "4.0", "kB", "1.0"]]
    report(*folders, "--out", str(tmp_path / "report.html"))
    text = Page(tmp_path / "report.html").text
    carried = (
        "the devices' links carried 3.0 kB up and 2.0 kB down (modelled): float32 would be 8.00 times as"
    )
    assert text.count("links carried") == 1
    assert carried in text
    assert "bytes on the devices' links" in text


def test_runs_are_compared_in_the_terminal(tmp_path: Path) -> None:
    sweep = CliRunner().invoke(app, ["compare", str(made_sweep(tmp_path / "grid"))])
    assert sweep.exit_code == 0, sweep.output
    assert "not told apart" not in sweep.output
    assert "has the best mean and is better than int8." in sweep.output.replace("\n", " ")
    rows = [row(1, 0.4, 10, 1.0), row(2, 0.8, 20, 2.0)]
    folders = [made_run(tmp_path / name, rows, name=name, cohort=number) for number, name in enumerate("ab")]
    runs = CliRunner().invoke(app, ["compare", *map(str, folders)])
    assert runs.exit_code == 0, runs.output
    first, *lines = [line.split() for line in runs.output.splitlines()[:3]]
    assert first == ["run", "accuracy", "bytes", "real", "s"]
    assert [line[:2] for line in lines] == [["a", "0.800"], ["b", "0.800"]]
    assert "One seed each, so nothing is ranked" in runs.output


def test_a_live_and_a_simulated_run_have_no_time_in_common(tmp_path: Path) -> None:
    rows = [row(1, 0.4, 10, 1.0), row(2, 0.8, 20, 2.0)]
    live, simulated = (made_run(tmp_path / name, rows, name=name) for name in ("live", "simulated"))
    summary = json.loads((simulated / "summary.json").read_text())
    (simulated / "summary.json").write_text(json.dumps({**summary, "virtual_seconds": 2.0}))
    report(live, simulated, "--out", tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "real or virtual time" in text
    assert "The same time is" not in text


def test_a_sweep_of_seeds_alone_and_one_that_failed_are_told(tmp_path: Path) -> None:
    folder = made_sweep(tmp_path / "grid")
    table = pq.read_table(folder / "sweep.parquet")
    keys = ["flows.gradient_down.codec", "fleet.0.link.uplink_kbps"]
    pq.write_table(table.slice(0, 3).drop_columns(keys), folder / "sweep.parquet")
    report(folder)
    assert "3 of 3" in Page(folder / "report.html").text
    pq.write_table(table.slice(12, 1), folder / "sweep.parquet")
    report(folder)
    assert "0 (1 failed)" in Page(folder / "report.html").text
    assert CliRunner().invoke(app, ["compare", str(folder)]).exit_code == 0


def test_clients_are_named_with_their_group() -> None:
    fleet = [
        {"count": 2, "device": "raspberry-pi-zero-2w", "link": "3g"},
        {"names": ["attic"], "device": {"forward_s": 0.1}, "link": {"uplink_kbps": 64}, "via": "hall"},
        {"count": 1},
    ]
    assert groups_of({"fleet": fleet}) == {
        "c0": "pi-zero-2w, 3g",
        "c1": "pi-zero-2w, 3g",
        "attic": "own device, link of its own, via hall",
        "c2": "",
    }
    assert groups_of({"fleet": "?"}) == groups_of({}) == {}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("scenario.yaml", None, "missing; fedlite run and fedlite simulate write it"),
        ("metrics.parquet", None, "missing; fedlite run and fedlite simulate write it, first after an eval"),
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
    assert words.stragglers(times, {"a": "pi-4, wifi"}) == (
        "2 of 3 rounds were held up (1 by its uplink, 1 by computing) and lost 20 s against the median "
        "client, 50% of the time. Most often it was a, pi-4, wifi (2 of them)."
    )
    others = [*times[:2], dataclasses.replace(times[2], client="c")]
    assert words.stragglers(others, {}).endswith("50% of the time. Each time it was another client.")
    assert words.where_time_went(times) == (
        "50% of the 40 s went into devices computing, 50% into the way up. "
        "The longest round was 3, 20 s; the mean is 13.3 s."
    )


def test_waiting_for_a_core_blames_nobody() -> None:
    times = [
        RoundTime(1, 10.0, {OWN_CORES: 5.0, "compute": 5.0}, None, OWN_CORES, 5.0),
        RoundTime(2, 10.0, {"compute": 10.0}, "b", "compute", 0.5),
    ]
    assert words.held_up(times) == []
    assert words.own_cores(times[1:]) is None
    said = words.own_cores(times) or ""
    assert said.startswith(
        "1 of 2 rounds waited for a core of this machine, which runs all clients, and lost 5 s"
    )
    assert "No client is to blame" in said
    assert words.who(times[0], {}) == "nobody"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0125, "12.5 ms"), (90, "90 s"), (600, "10 min"), (9000, "2.5 h"), (259_200, "3.0 d")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_seeds_that_were_evaluated_once_at_different_times_are_seen(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / str(seed), [row(1, 0.5, 10, at_s)], seed=seed)
            for seed, at_s in enumerate((1.0, 2.0, 3.0))]  # fmt: skip
    chart = along(compare(trials_of_runs([run_of(run) for run in runs])))[0]
    axes = Figure().subplots()
    chart.draw(axes)
    seen = {(x, line.get_marker()) for line in axes.lines for x in np.asarray(line.get_xdata()).tolist()}
    assert seen == {(1.0, "o"), (2.0, "o"), (3.0, "o")}


LADDER = "flows.adaptive={ladder: [{activations_up: {codec: int8}}, {activations_up: {codec: int2}}]}"


def test_a_run_whose_codecs_follow_links_says_which_rungs_it_used(tmp_path: Path) -> None:
    summary = simulate(small_scenario(tmp_path, LADDER, FLEET), tmp_path / "run")
    report(tmp_path / "run")
    text = Page(tmp_path / "run/report.html").text
    fine, coarse = (rung["answered"] for rung in summary["rungs"])
    assert fine
    assert coarse
    assert f"{fine + coarse} updates of clients came in time" in text
    assert "Codecs: activations_up from a ladder, gradient_down" in text
    for number, codec in enumerate(("int8", "int2")):
        row = rf"{number} \(activations up {codec}\)\n+\s*{summary['rungs'][number]['answered']}\n"
        assert re.search(row, text)


def test_a_run_with_one_codec_says_nothing_of_rungs(tmp_path: Path) -> None:
    simulate(small_scenario(tmp_path, FLEET), tmp_path / "run")
    report(tmp_path / "run")
    assert "rung" not in Page(tmp_path / "run/report.html").text


@pytest.mark.parametrize("target", ["nan", "inf", "-inf"])
def test_a_target_that_no_metric_reaches_is_a_mistake(tmp_path: Path, target: str) -> None:
    told = CliRunner().invoke(app, ["report", str(made_sweep(tmp_path / "grid")), f"--target={target}"])
    assert (told.exit_code, told.output.count("\n")) == (2, 1)
    assert told.output.startswith(f"error: --target {target}: must be a number")
