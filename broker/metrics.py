"""Prometheus metrics of a live program, over HTTP, through prometheus-client (the extra `metrics`)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from broker.errors import RunError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is; the name of a counter ends in _total.

    Attributes:
        kind: how its values are to be read.
        help: in words.
        labels: names of its labels.
    """

    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


Sample = tuple[str, tuple[str, ...], float]
"""Name of a metric, values of its labels, value."""


def address_of(where: str) -> tuple[str, int]:
    """Read PORT or HOST:PORT.

    Raises:
        RunError: it is neither.
    """
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdecimal() or int(port) > MAX_PORT or (colon and not host):
        raise RunError(f"--metrics takes PORT or HOST:PORT with a port of 0 to {MAX_PORT}, not {where!r}")
    return host or LOOPBACK, int(port)


@contextmanager
def serving_metrics(
    where: str, metrics: Mapping[str, Metric], collect: Callable[[], Iterable[Sample]]
) -> Iterator[None]:
    """Serve metrics for as long as the context lasts; do nothing if `where` is empty.

    Args:
        where: PORT, or HOST:PORT; the host is 127.0.0.1 if not given.
        metrics: what there may be, by name.
        collect: gives the present values; is called in another thread whenever somebody asks.

    Raises:
        RunError: no such address, one that is taken, or prometheus-client is not installed.
    """
    if not where:
        yield
        return
    host, port = address_of(where)
    try:
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415  an extra
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415
    except ImportError:
        raise RunError(
            "--metrics needs prometheus-client, which is not installed: pip install 'fedlite-mqtt[metrics]'"
        ) from None
    families = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}

    class Collector:
        def collect(self) -> Sequence[GaugeMetricFamily | CounterMetricFamily]:
            found = {
                name: families[each.kind](name, each.help, labels=each.labels)
                for name, each in metrics.items()
            }
            for name, labels, value in collect():
                found[name].add_metric(labels, value)
            return list(found.values())

    registry = CollectorRegistry()
    registry.register(Collector())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise RunError(f"--metrics {where}: {error.strerror or error}; choose another port") from error
    log.info("metrics at http://%s:%d/metrics", host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
