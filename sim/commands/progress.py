"""What a person, or a program, sees of a run while it goes on."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from server_node.protocol.ledger import Ledger
from server_node.protocol.reports import Dropped, Fact, Gathering, Refused, RoundReport, Watch
from server_node.record import Summary

_UP = ("activations_up", "head_update_up")
_DOWN = ("gradient_down", "head_state_down")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def format_bytes(size_bytes: float) -> str:
    """Write a number of bytes for people, in powers of 1000."""
    for unit in _UNITS[:-1]:
        if size_bytes < 1000:  # noqa: PLR2004  SI prefix
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} {_UNITS[-1]}"


@contextmanager
def watching(*, rounds: int, clients: int, metric: str, as_json: bool) -> Iterator[Watch]:
    """Give a watcher for a run: a progress bar on a terminal, JSON lines if asked for, else silence."""
    if as_json:
        yield _json_line
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"waiting for {clients} clients", total=rounds)
        score, dropped = "", 0

        def watch(fact: Fact, ledger: Ledger) -> None:
            nonlocal score, dropped
            match fact:
                case Gathering(online):
                    progress.update(bar, description=f"{online} of {clients} clients online")
                case RoundReport():
                    if fact.metric is not None:
                        score = f"  {metric} {fact.metric:.3f}"
                    up, down = (
                        sum(ledger.flows[name].wire_bytes for name in flows) for flows in (_UP, _DOWN)
                    )
                    text = f"loss {fact.loss:.3f}{score}  up {format_bytes(up)}  down {format_bytes(down)}"
                    text += f"  {fact.online} online" + (f"  {dropped} dropped" if dropped else "")
                    progress.update(bar, completed=fact.round, description=text)
                case Dropped():
                    dropped += 1
                case Refused(client, why):
                    progress.console.print(f"refused a message of {client}: {why}", markup=False)

        yield watch


def _json_line(fact: Fact, ledger: Ledger) -> None:
    if isinstance(fact, RoundReport):
        wire = {name: flow.wire_bytes for name, flow in ledger.flows.items()}
        loss = None if math.isnan(fact.loss) else fact.loss
        line = {"round": fact.round, "loss": loss, "metric": fact.metric, "online": fact.online}
        sys.stdout.write(json.dumps(line | {"wire_bytes": wire}) + "\n")
        sys.stdout.flush()


def summary_table(summary: Summary) -> str:
    """Write a summary for people: the result, then the bytes of each flow."""
    metric, ratio = summary["metric"], summary["ratio"]
    final = (
        "not evaluated" if metric["final"] is None else f"{metric['final']:.3f} (best {metric['best']:.3f})"
    )
    pace = f"{summary['training_seconds']:.1f} s ({summary['client_steps_per_second']:.1f} a second)"
    if summary["virtual_seconds"] is not None:
        pace += f", {summary['virtual_seconds']:.1f} s of virtual time"
    lines = [
        f"{summary['rounds']} rounds, {summary['client_steps']} client steps in {pace}",
        f"{metric['name']} {final}",
        "",
        f"{'flow':<18}{'as float32':>12}{'on the wire':>13}{'ratio':>9}",
    ]
    for name, flow in summary["bytes"].items():
        raw = format_bytes(flow["raw_float32"]) if "raw_float32" in flow else ""
        lines.append(f"{name:<18}{raw:>12}{format_bytes(flow['wire']):>13}{_times(ratio.get(name)):>9}")
    lines.append("")
    if ratio["activations_up"]["paper_64bit"]:
        lines.append(f"activations in the paper's accounting: {ratio['activations_up']['paper_64bit']:.1f}x")
    if ratio["total_both_directions"]:
        lines.append(
            f"both directions together: {ratio['total_both_directions']:.2f}x fewer bytes than float32"
        )
    return "\n".join(lines)


def _times(ratio: dict[str, float | None] | None) -> str:
    return f"{ratio['wire_vs_float32']:.1f}x" if ratio and ratio["wire_vs_float32"] else ""
