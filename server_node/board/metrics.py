"""The server's metrics for Prometheus, read off a view."""

from collections.abc import Iterator
from itertools import chain

from broker.metrics import Metric, Sample
from server_node.board.views import View

PHASES = ("gathering", "running", "paused", "finished")
_OF_CLIENT = ("run", "client")

METRICS = {
    "fedlite_server_phase": Metric("gauge", "1 for the phase that the run is in", ("run", "phase")),
    "fedlite_server_round": Metric("gauge", "last round that has begun", ("run",)),
    "fedlite_server_rounds": Metric("gauge", "rounds that the run shall have", ("run",)),
    "fedlite_server_metric": Metric("gauge", "the task's metric at the last evaluation", ("run", "metric")),
    "fedlite_server_loss": Metric("gauge", "mean loss of the last round", ("run",)),
    "fedlite_server_clients": Metric("gauge", "clients of the fleet", ("run",)),
    "fedlite_server_clients_online": Metric("gauge", "clients that are there", ("run",)),
    "fedlite_server_steps_total": Metric("counter", "batches that went through the tail", ("run",)),
    "fedlite_server_wire_bytes_total": Metric("counter", "bytes of MQTT packets", ("run", "flow")),
    "fedlite_server_watch_bytes_total": Metric("counter", "bytes of the pages for watching", ("run",)),
    "fedlite_server_refused_total": Metric("counter", "messages that were refused", ("run",)),
    "fedlite_server_duplicates_total": Metric("counter", "messages whose effect had been had", ("run",)),
    "fedlite_server_late_total": Metric("counter", "answers that came after their round", ("run",)),
    "fedlite_server_waiting_seconds": Metric(
        "gauge", "how long the round has waited for its slowest member", ("run",)
    ),
    "fedlite_client_online": Metric("gauge", "1 if the client is there", _OF_CLIENT),
    "fedlite_client_batches_total": Metric(
        "counter", "the client's batches since the server's start", _OF_CLIENT
    ),
    "fedlite_client_refused_total": Metric("counter", "the client's messages that were refused", _OF_CLIENT),
    "fedlite_client_answer_seconds": Metric("gauge", "mean time to an answer of the client", _OF_CLIENT),
    "fedlite_client_seen_timestamp_seconds": Metric(
        "gauge", "when the client said something last, Unix time", _OF_CLIENT
    ),
}


def samples_of(view: View) -> Iterator[Sample]:
    """Give the values of the metrics at the moment of a view; what is not known has none."""
    run, name = view.run, (view.run.run,)
    waiting_s = 0.0 if run.slowest is None else max(0.0, view.at - run.slowest.since)
    yield from (("fedlite_server_phase", (*name, phase), float(phase == run.phase)) for phase in PHASES)
    yield from (
        ("fedlite_server_wire_bytes_total", (*name, flow), size) for flow, size in run.wire_bytes.items()
    )
    if run.metric is not None:
        yield "fedlite_server_metric", (*name, run.metric_name), run.metric
    if run.loss is not None:
        yield "fedlite_server_loss", name, run.loss
    yield from (
        (f"fedlite_server_{what}", name, value)
        for what, value in (
            ("round", run.round),
            ("rounds", run.rounds),
            ("clients", run.clients),
            ("clients_online", run.online),
            ("steps_total", run.steps),
            ("watch_bytes_total", run.watch_bytes),
            ("refused_total", run.rejected),
            ("duplicates_total", run.duplicates),
            ("late_total", run.late),
            ("waiting_seconds", waiting_s),
        )
    )
    for line in chain.from_iterable(page.clients for page in view.clients.values()):
        labels = (*name, line.client)
        yield "fedlite_client_online", labels, float(line.status not in ("unknown", "offline"))
        yield "fedlite_client_batches_total", labels, line.batches
        yield "fedlite_client_refused_total", labels, line.refused
        if line.answer_s is not None:
            yield "fedlite_client_answer_seconds", labels, line.answer_s
        if line.seen is not None:
            yield "fedlite_client_seen_timestamp_seconds", labels, line.seen
