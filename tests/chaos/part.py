"""`fedlite server` or `fedlite edge` that notices a dead link sooner: its keepalive is KEEPALIVE_S.

Nothing else differs from the real commands; with their keepalive every half-open link would cost a minute.
"""

import sys

import typer

from broker.transports.mqtt import MqttTransport

KEEPALIVE_S = 4


def main() -> None:
    defaults = MqttTransport.__init__.__kwdefaults__
    assert defaults is not None
    assert "keepalive_s" in defaults
    defaults["keepalive_s"] = KEEPALIVE_S
    if sys.argv.pop(1) == "server":
        from server_node.__main__ import server  # noqa: PLC0415  torch takes its time

        typer.run(server)
    else:
        from edge_client.__main__ import edge  # noqa: PLC0415

        typer.run(edge)


if __name__ == "__main__":
    main()
