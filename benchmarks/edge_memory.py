"""Peak resident memory of one edge process that hosts one client of the quickstart's task.

    .venv/bin/python -m benchmarks.edge_memory

Starts a local broker, a server and `fedlite edge --clients 0`, trains 50 rounds, and prints what the
kernel says of the edge process (ru_maxrss). Linux and macOS.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from broker.servers.spawn import local_broker

SETTINGS = ["--set=fleet=[{count: 1}]", "--set=training.cohort=1", "--set=training.rounds=50"]


def main() -> None:
    """Run one client and print its peak."""
    with tempfile.TemporaryDirectory() as folder, local_broker("embedded", Path(folder)) as url:
        common = ["quickstart", f"--broker={url}", *SETTINGS]
        with subprocess.Popen(
            [sys.executable, "-m", "server_node", *common, f"--out={folder}/run"], stdout=subprocess.DEVNULL
        ) as server:
            edge = subprocess.Popen([sys.executable, "-m", "broker.cli", "edge", *common, "--clients=0"])
            _, status, usage = os.wait4(edge.pid, 0)
            server.wait()
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"edge process with one client: peak {usage.ru_maxrss * unit / 2**20:.0f} MiB, exit {status}")


if __name__ == "__main__":
    main()
