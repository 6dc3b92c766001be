"""`python -m broker` runs a broker until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from broker.console import command
from broker.servers.spawn import LOCALHOST, Kind, run_broker


@command
def main(
    kind: Annotated[
        Kind, typer.Option(help="embedded needs nothing; mosquitto must be installed.")
    ] = "embedded",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = LOCALHOST,
    port: Annotated[int, typer.Option(help="TCP port.")] = 1883,
    folder: Annotated[Path, typer.Option(help="Where mosquitto keeps its data.")] = Path("broker-data"),
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a broker without passwords, for one machine or a network you trust."""
    typer.echo(f"{kind} broker on mqtt://{host}:{port}; Ctrl-C ends it")
    run_broker(kind, host=host, port=port, folder=folder, until_stdin_closes=until_stdin_closes)


if __name__ == "__main__":
    typer.run(main)
