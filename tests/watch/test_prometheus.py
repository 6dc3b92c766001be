"""The metrics, alerts and dashboard, tried with a real Prometheus and its promtool."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.metrics import Sample, serving_metrics
from edge_client import board as edge
from server_node.board.metrics import samples_of
from server_node.board.pages import Slowest
from tests.watch.test_metrics import ALL, MONITORING, expressions, scrape_text, view

WAIT_S = 20.0


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install prometheus)")
    return found


@pytest.fixture(scope="module")
def promtool() -> str:
    return program("promtool")


def all_samples() -> list[Sample]:
    board = edge.Board.of("r", ["a", "b"])
    return [
        *samples_of(view(metric=0.75, loss=0.5, slowest=Slowest("a", 990.0, "computing"))),
        *board.samples(),
    ]


def test_promtool_finds_no_fault_with_what_a_scrape_gives(
    promtool: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "broker.metrics")
    with serving_metrics("0", ALL, all_samples):
        page = scrape_text(caplog.text)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_promtool_takes_the_alert_rules(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "rules", MONITORING / "alerts.yaml"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


STORIES: list[tuple[str, dict[str, str], str, str | None]] = [
    # what Prometheus has seen every minute; at which time is looked; which alert there is for what
    (
        "a client that is away while the run goes on",
        {
            'fedlite_client_online{run="r",client="a"}': "1x5 0x30",
            'fedlite_server_phase{run="r",phase="running"}': "1x40",
        },
        "20m",
        "FedliteClientOffline",
    ),
    (
        "a client that is away while the run is paused",
        {
            'fedlite_client_online{run="r",client="a"}': "0x40",
            'fedlite_server_phase{run="r",phase="running"}': "0x40",
        },
        "30m",
        None,
    ),
    (
        "a run without a step",
        {
            'fedlite_server_phase{run="r",phase="running"}': "1x40",
            'fedlite_server_steps_total{run="r"}': "7x40",
        },
        "30m",
        "FedliteNoProgress",
    ),
    (
        "a run with steps",
        {
            'fedlite_server_phase{run="r",phase="running"}': "1x40",
            'fedlite_server_steps_total{run="r"}': "0+1x40",
        },
        "30m",
        None,
    ),
    ("a server that is down", {'up{job="fedlite-server"}': "1x5 0x20"}, "10m", "FedliteServerDown"),
    ("another job that is down", {'up{job="node"}': "0x20"}, "10m", None),
    (
        "half of the fleet",
        {'fedlite_server_clients_online{run="r"}': "5x20", 'fedlite_server_clients{run="r"}': "10x20"},
        "15m",
        "FedliteFewClients",
    ),
    ("a straggler", {'fedlite_server_waiting_seconds{run="r"}': "200x20"}, "10m", "FedliteStraggler"),
    ("refusals", {'fedlite_client_refused_total{run="r",client="a"}': "0+1x20"}, "15m", "FedliteRefusals"),
    (
        "an edge without a broker",
        {'fedlite_edge_connected{run="r",client="a"}': "0x20"},
        "10m",
        "FedliteEdgeDisconnected",
    ),
    (
        "a connection that comes and goes",
        {'fedlite_edge_connections_total{run="r",client="a"}': "0+1x20"},
        "15m",
        "FedliteFlappingConnection",
    ),
]


def test_each_alert_is_raised_for_what_it_is_for(promtool: str, tmp_path: Path) -> None:
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert {alert for *_, alert in STORIES} - {None} == {rule["alert"] for rule in alerts}
    asked = {
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "tests": [
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in seen.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": at,
                        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
                    }
                ],
            }
            for name, seen, at, alert in STORIES
        ],
    }
    (tmp_path / "stories.yaml").write_text(yaml.safe_dump(asked))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "stories.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Run a Prometheus that scrapes a target every second; give what asks it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    told = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [{"job_name": "fedlite-server", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    command = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={place}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]  # fmt: skip

    def ask(expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{place}/api/v1/query?{query}", timeout=5) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        results: list[dict[str, Any]] = found["data"]["result"]
        return results

    log = folder / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + WAIT_S
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline_s, log.read_text()
                try:
                    if ask('up{job="fedlite-server"} == 1'):
                        break
                except OSError:
                    pass
                time.sleep(0.1)
            yield ask
        finally:
            process.kill()


@pytest.mark.slow
def test_a_real_prometheus_reads_the_page_and_every_expression(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program("prometheus")
    caplog.set_level("INFO", "broker.metrics")
    with serving_metrics("0", ALL, all_samples):
        target = caplog.text.partition("http://")[2].partition("/")[0]
        with prometheus(tmp_path, target) as ask:
            (found,) = ask("fedlite_server_metric")
            assert found["metric"]["metric"] == "accuracy"
            assert float(found["value"][1]) == 0.75
            seen = {each["metric"]["__name__"] for each in ask('{__name__=~"fedlite_.+"}')}
            assert seen == set(ALL)
            for title, expression in expressions():
                filled = expression.replace("$run", "r").replace("$__rate_interval", "1m")
                assert "$" not in filled, title
                ask(filled)
