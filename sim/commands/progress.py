"""What a person, or a program, sees of a run or a sweep while it goes on, and at the end of a run."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from rich.console import Console

from broker.cli.screen import LINE_S, progress_bar
from broker.cli.wording import format_bytes, format_ratio
from server_node.board.screen import round_as_json
from server_node.summary import Summary
from server_node.vocabulary.ledger import DOWN, UP, Ledger
from server_node.vocabulary.reports import Dropped, Fact, Gathering, Refused, RoundReport, Watch, Working
from sim.experiments.results import Row

MOST_STEPS = 1_000
"""In which a bar shows how many clients are there: each takes as much time as a client's greeting."""


@contextmanager
def watching_run(*, rounds: int, clients: int, metric: str, as_json: bool) -> Iterator[Watch]:
    """Give a watcher for a run: a bar on a terminal, a line from time to time elsewhere, or JSON lines."""
    if as_json:
        yield round_as_json
        return
    with progress_bar(f"waiting for {clients} clients", rounds) as (console, update):
        score, dropped, say = "", 0, _from_time_to_time(console)

        def watch(fact: Fact, ledger: Ledger) -> None:
            nonlocal score, dropped
            match fact:
                case Gathering(online):
                    text = f"{online} of {clients} clients online"
                    if online % (clients // MOST_STEPS + 1) == 0 or online == clients:
                        update(description=text)
                    say(text)
                case RoundReport():
                    if fact.metric is not None:
                        score = f"{metric} {fact.metric:.3f}  "
                    up, down = (format_bytes(_wire_bytes(ledger, flows)) for flows in (UP, DOWN))
                    text = f"{score}loss {fact.loss:.3f}  up {up}  down {down}  {fact.online} online"
                    text += f"  {dropped} dropped" if dropped else ""
                    update(completed=fact.round, description=text)
                    say(f"round {fact.round} of {rounds}  {text}")
                case Dropped():
                    dropped += 1
                case Working(what, done, of):
                    text = what + (f" {done:,}" if done else "") + (f" of {of:,}" if of else "")
                    update(description=text)
                    say(text)
                case Refused(client, why):
                    console.print(f"refused a message of {client}: {why}", markup=False)

        yield watch


def _from_time_to_time(console: Console) -> Callable[[str], None]:
    """Give what prints a line where there is no bar, if the last one was a while ago."""
    said_s = time.monotonic()

    def say(text: str) -> None:
        nonlocal said_s
        if not console.is_terminal and time.monotonic() >= said_s + LINE_S:
            said_s = time.monotonic()
            console.print(text, markup=False, soft_wrap=True)

    return say


@contextmanager
def watching_sweep(points: int, *, as_json: bool) -> Iterator[Callable[[Row], None]]:
    """Give a watcher for a sweep, which is told each point's row, in the same three ways."""
    if as_json:
        yield _json_line
        return
    with progress_bar("points", points) as (console, update):
        done = 0

        def watch(row: Row) -> None:
            nonlocal done
            done += 1
            line = f"{row['run']}: {_result(row)}"
            update(advance=1, description=line)
            if not console.is_terminal:
                console.print(f"{done} of {points}  {line}", markup=False, soft_wrap=True)

        yield watch


def _json_line(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, default=str) + "\n")
    sys.stdout.flush()


def _wire_bytes(ledger: Ledger, flows: Sequence[str]) -> int:
    return sum(flow.wire_bytes for name, flow in ledger.flows.items() if name in flows)


def _result(row: Row) -> str:
    """Say what a point of a sweep came to."""
    if row["error"] is not None:
        return "failed"
    final = row["metric.final"]
    return f"{row['virtual_seconds']:.1f} s" if final is None else f"{row['metric.name']} {final:.3f}"


def _on_links(summary: Summary) -> list[str]:
    """Say what the devices' links carried; summaries of earlier versions do not know it."""
    if "links" not in summary:
        return []
    links = summary["links"]
    fewer = f"{format_ratio(links['ratio'], 2)} fewer bytes, " if links["ratio"] else ""
    ways = f"{format_bytes(links['up'])} up, {format_bytes(links['down'])} down"
    return [f"on the devices' links, with TCP/IP ({links['how']}): {fewer}{ways}"]


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
    of_flow = cast("Mapping[str, Any]", ratio)
    for name, flow in summary["bytes"].items():
        raw = format_bytes(flow["raw_float32"]) if "raw_float32" in flow else ""
        fewer = format_ratio(of_flow[name]["wire_vs_float32"]) if name in of_flow else ""
        lines.append(f"{name:<18}{raw:>12}{format_bytes(flow['wire']):>13}{fewer:>9}")
    lines.append("")
    paper, both_ways = ratio["activations_up"]["paper_64bit"], ratio["total_both_directions"]
    if paper:
        lines.append(f"activations in the paper's accounting: {format_ratio(paper)}")
    if both_ways:
        lines.append(f"both directions together: {format_ratio(both_ways, 2)} fewer bytes than float32")
    lines += _on_links(summary)
    if "energy" in summary:
        energy = summary["energy"]
        lines.append(
            f"energy: {energy['joules'] / 1000:.1f} kJ, {energy['joules_of_a_client']:.0f} J a client; "
            f"batteries were empty {energy['times_empty']} times"
        )
    if "checkpoint_error" in summary:
        lines.append(f"the last checkpoint is missing: {summary['checkpoint_error']}")
    lines += summary.get("damaged_checkpoints", [])
    return "\n".join(lines)
