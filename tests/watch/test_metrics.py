"""Prometheus metrics: what a scrape gives, and that dashboard and alerts ask for nothing else."""

import json
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker.errors import RunError
from broker.metrics import Metric, Sample, address_of, serving_metrics
from edge_client import board as edge
from server_node.board.metrics import METRICS, samples_of
from server_node.board.pages import ClientsPage, EventsPage, HistoryPage, RoundPage, Slowest
from server_node.board.views import View
from tests.watch.pages import client, run_page

MONITORING = Path(__file__).parent.parent.parent / "docs/monitoring"
ALL = METRICS | edge.METRICS


def view(**changes: Any) -> View:
    clients = ClientsPage([client("a"), client("b", status="offline", seen=None, answer_s=None)])
    nothing = HistoryPage([], []), EventsPage([])
    return View(1000.0, run_page(**changes), None, RoundPage(3, 0.0, 1, [], 0), *nothing, {0: clients})


def scrape_text(log: str) -> str:
    (url,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", log)
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def scrape(log: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape_text(log))
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_scrape_of_a_server_gives_its_view(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker.metrics")
    seen = view(metric=0.75, slowest=Slowest("a", 990.0, "computing"))
    with serving_metrics("0", METRICS, lambda: samples_of(seen)):
        found = scrape(caplog.text)
    run = ("run", "r")
    assert {name for name, _ in found} == METRICS.keys()
    assert found["fedlite_server_metric", (("metric", "accuracy"), run)] == 0.75
    assert found["fedlite_server_phase", (("phase", "running"), run)] == 1
    assert found["fedlite_server_phase", (("phase", "paused"), run)] == 0
    assert found["fedlite_server_wire_bytes_total", (("flow", "gradient_down"), run)] == 4000
    assert found["fedlite_server_waiting_seconds", (run,)] == 10
    assert found["fedlite_client_online", (("client", "a"), run)] == 1
    assert found["fedlite_client_online", (("client", "b"), run)] == 0
    assert ("fedlite_client_answer_seconds", (("client", "b"), run)) not in found


def test_before_anything_is_known_a_scrape_is_empty(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker.metrics")
    with serving_metrics("0", METRICS, lambda: ()):
        assert scrape(caplog.text) == {}


def test_a_scrape_of_an_edge_gives_its_board(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker.metrics")
    board = edge.Board.of("r", ["a"])
    board.records["a"].answers = 7
    with serving_metrics("127.0.0.1:0", edge.METRICS, board.samples):
        found = scrape(caplog.text)
    assert {name for name, _ in found} == edge.METRICS.keys()
    assert found["fedlite_edge_answers_total", (("client", "a"), ("run", "r"))] == 7


def test_counters_are_called_so() -> None:
    for name, metric in ALL.items():
        assert (metric.kind == "counter") == name.endswith("_total"), name


def named_in(text: str) -> set[str]:
    return set(re.findall(r"fedlite_[a-z_]+", text))


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json"])
def test_dashboard_and_alerts_name_only_metrics_that_there_are(file: str) -> None:
    named = named_in((MONITORING / file).read_text())
    assert named
    assert named <= ALL.keys()


def test_every_metric_is_shown_or_watched() -> None:
    shown = named_in("".join(expression for _, expression in expressions()))
    assert ALL.keys() - shown == {"fedlite_edge_working", "fedlite_edge_round"}


def test_expressions_name_only_labels_that_there_are() -> None:
    for title, expression in expressions():
        for name, labels in re.findall(r"(fedlite_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*=", labels))
            assert used <= set(ALL[name].labels), (title, name)


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} <= {"stat", "gauge", "timeseries", "table"}
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) == variables == {"datasource", "run"}
    for panel in panels:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in sources), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0, panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


# where they are served


@pytest.mark.parametrize(
    ("where", "address"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:9100", ("0.0.0.0", 9100)), ("[::1]:0", ("::1", 0))],
)
def test_the_address_is_this_machine_unless_said(where: str, address: tuple[str, int]) -> None:
    assert address_of(where) == address


@pytest.mark.parametrize("where", ["x", ":9100", "-1", "65536", "host:", "1 2", "\N{SUPERSCRIPT TWO}"])
def test_what_is_no_address_is_told(where: str) -> None:
    with pytest.raises(RunError, match="--metrics takes PORT or HOST:PORT"):
        address_of(where)


def no_samples() -> list[Sample]:
    return []


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"--metrics {port}: Address already in use"):
            serving_metrics(str(port), METRICS, no_samples).__enter__()


def test_without_the_extra_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(RunError, match=r"pip install 'fedlite-mqtt\[metrics\]'"):
        serving_metrics("0", {"x": Metric("gauge", "x")}, no_samples).__enter__()


def test_nobody_asked_for_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with serving_metrics("", METRICS, no_samples):
        pass
