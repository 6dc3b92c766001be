"""Says in words what each chart shows, computed from the data. One sentence or two for each."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from broker.cli.wording import format_bytes, format_seconds
from broker.exits import COMPLETE
from server_node.summary import total_link_bytes, total_wire_bytes, wire_bytes_so_far
from server_node.vocabulary.ledger import CONTROL, DOWN, UP
from sim.report.lanes import CLOSING, OWN_CORES, WAITING
from sim.report.rounds import ABSENT, NOT_TRACED, RoundTime
from sim.report.runs import Row, Run, Sweep
from sim.statistics.trials import reached

NOTABLE = 0.1
"""A client held a round up when this share of it was lost to the median client."""

_PHASES = {
    "compute": "devices computing",
    "encode": "devices encoding",
    "uplink": "the way up",
    "queue": "queues",
    "tail": "the tail on the server",
    "downlink": "the way down",
    "decode + backward": "devices decoding and going backwards",
    CLOSING: "the server closing rounds",
    WAITING: "waiting, with nothing on the client's lane",
    OWN_CORES: "waiting for a core of this machine, which runs all clients",
}
_CAUSES = {
    "compute": "by computing",
    "uplink": "by its uplink",
    "downlink": "by its downlink",
    "server": "in queues and at the server",
    ABSENT: "by being away or idle",
    NOT_TRACED: "by clients that are not on the trace",
}


def nature(run: Run) -> str:
    """Say what kind of run it was, and how it ended."""
    summary = run.summary
    how = "simulated, in virtual time" if run.clock == "virtual" else "live, in real time"
    paths = {name: f"flows.{name}.codec" for name, flow in summary["bytes"].items() if flow["wire"]}
    chosen = {path.split(".")[4] for path in run.scenario if path.startswith("flows.adaptive.ladder.")}
    codecs = ", ".join(
        f"{name} {'from a ladder' if name in chosen else run.scenario[path]}"
        for name, path in paths.items()
        if path in run.scenario
    )
    early = "" if summary["reason"] == COMPLETE else f" It ended early: {summary['reason']}."
    if run.unfinished:
        early = f" It is not over, or was lost ({run.unfinished}): what follows is what there is so far."
    return (
        f"{summary['scenario']}: {summary['task']} on {summary['clients']} clients, "
        f"{summary['rounds']} rounds, seed {summary['seed']}; {how}.{early} Codecs: {codecs}."
    )


def evaluated(run: Run) -> list[Row]:
    """Give the rows of rounds after which the model was evaluated."""
    return [row for row in run.rows if row["metric"] is not None]


def learning(run: Run) -> str:
    """Say what the metric came to, and what that took."""
    rows, metric = evaluated(run), run.summary["metric"]
    if not rows:
        return "Nothing was evaluated: no training (--timing-only), or the run ended too early."
    last, clients = rows[-1], run.summary["clients"]
    higher, first = run.higher_is_better, rows[0]["metric"]
    from_zero = higher and last["metric"] >= 0
    middle = (last["metric"] + (0 if from_zero else first)) / 2
    part = "half of it" if from_zero else f"half of the way from {first:.3f}"
    half = next(row for row in rows if reached(row["metric"], middle, higher_better=higher) or row is last)
    sooner = "already at the first look, " if half is rows[0] else ""
    best = _best(run)
    fell = f" (best {best['metric']:.3f}, round {best['round']})" if best["metric"] != last["metric"] else ""
    total = wire_bytes_so_far(last)
    return (
        f"Reached {metric['name']} {last['metric']:.3f}{fell} after {format_bytes(total)}, that is "
        f"{format_bytes(total / clients)} per client of the fleet{_and_time(run, last, ', and ')}; "
        f"{part} was there {sooner}after {format_bytes(wire_bytes_so_far(half))}"
        f"{_and_time(run, half, ' and ')}."
    )


def _and_time(run: Run, row: Row, joined: str) -> str:
    """Say how long it took to a row, after what is said before; nothing where nothing takes time."""
    return f"{joined}{_seconds(run, row['elapsed_s'])}" if run.takes_time else ""


def no_rounds(run: Run) -> str:
    """Say why there are no times of rounds."""
    if run.takes_time:
        return "No round can be found on the trace."
    return (
        "No time passed: links and devices of this fleet take none. Give it a link and a device to see where "
        "time goes."
    )


def _best(run: Run) -> Row:
    choose = max if run.higher_is_better else min
    return choose(evaluated(run), key=lambda row: row["metric"])


def traffic(run: Run) -> str:
    """Say what was saved, and what most of the bytes were."""
    flows = run.summary["bytes"]
    wire, raw = total_wire_bytes(run.summary), sum(flow.get("raw_float32", 0) for flow in flows.values())
    if not wire:
        return "Nothing was sent."
    largest = max(flows, key=lambda name: flows[name]["wire"])
    up, down = (sum(flow["wire"] for name, flow in flows.items() if name in names) for names in (UP, DOWN))
    saved = (
        f"as float32 {format_bytes(raw)}, {raw / wire:.2f} times as much" if raw else "as float32 not known"
    )
    return (
        f"{format_bytes(wire)} in whole MQTT packets ({format_bytes(up)} up, {format_bytes(down)} "
        f"down); {saved}. The largest flow is {largest} with {flows[largest]['wire'] / wire:.0%}. "
        f"Control messages ({format_bytes(flows[CONTROL]['wire'])}) are in the total but not drawn."
        f"{_on_links(run, raw)}"
    )


def _on_links(run: Run, raw: int) -> str:
    """Say what the devices' links carried; empty for runs of earlier versions."""
    links, total = run.summary.get("links"), total_link_bytes(run.summary)
    if not links or not total:
        return ""
    saved = f": float32 would be {raw / total:.2f} times as much" if raw else ""
    return (
        f" With TCP/IP and all answers the devices' links carried {format_bytes(links['up'])} up and "
        f"{format_bytes(links['down'])} down ({links['how']}){saved}."
    )


def where_time_went(times: Sequence[RoundTime]) -> str:
    """Say what most of the time of all rounds went into."""
    total_s = sum(time.duration_s for time in times)
    spent: dict[str, float] = defaultdict(float)
    for time in times:
        for phase, seconds in time.seconds.items():
            spent[phase] += seconds
    first, second = sorted(spent, key=spent.__getitem__, reverse=True)[:2]
    longest = max(times, key=lambda time: time.duration_s)
    return (
        f"{_share(spent[first], total_s)} of the {format_seconds(total_s)} went into {_PHASES[first]}, "
        f"{_share(spent[second], total_s)} into {_PHASES[second]}. The longest round was {longest.round}, "
        f"{format_seconds(longest.duration_s)}; the mean is {format_seconds(total_s / len(times))}."
    )


def held_up(times: Sequence[RoundTime]) -> list[RoundTime]:
    """Give the rounds that somebody held up, worst first; not those that waited for a core."""
    return [time for time in _lost(times) if time.cause != OWN_CORES]


def _lost(times: Sequence[RoundTime]) -> list[RoundTime]:
    late = [time for time in times if time.lost_s > NOTABLE * time.duration_s]
    return sorted(late, key=lambda time: time.lost_s, reverse=True)


def stragglers(times: Sequence[RoundTime], groups: Mapping[str, str]) -> str:
    """Say how many rounds were held up, why, and by whom."""
    late = held_up(times)
    if not late:
        return (
            f"Nobody held up a round: in none of {len(times)} was more than {NOTABLE:.0%} of its time lost "
            "between the median client and the last."
        )
    lost_s, total_s = sum(time.lost_s for time in late), sum(time.duration_s for time in times)
    (client, often), *_ = Counter(who(time, groups) for time in late).most_common(1)
    why = Counter[str]()
    for time in late:
        why[time.cause] += 1
    reasons = ", ".join(f"{count} {_CAUSES[cause]}" for cause, count in why.most_common())
    whose = f"Most often it was {client} ({often} of them)."
    if often == 1 and len(late) > 1:
        whose = "Each time it was another client."
    return (
        f"{len(late)} of {len(times)} rounds were held up ({reasons}) and lost {format_seconds(lost_s)} "
        f"against the median client, {_share(lost_s, total_s)} of the time. {whose}"
    )


def own_cores(times: Sequence[RoundTime]) -> str | None:
    """Say how many rounds waited for the cores of the machine that runs all clients, if any did."""
    waited = [time for time in _lost(times) if time.cause == OWN_CORES]
    if not waited:
        return None
    lost_s, total_s = sum(time.lost_s for time in waited), sum(time.duration_s for time in times)
    return (
        f"{len(waited)} of {len(times)} rounds waited for a core of this machine, which runs all clients, "
        f"and lost {format_seconds(lost_s)}, {_share(lost_s, total_s)} of the time. No client is to blame: "
        "on devices of their own, or in fedlite simulate, this does not happen."
    )


def who(time: RoundTime, groups: Mapping[str, str]) -> str:
    """Name who held up a round, and its group of the fleet."""
    if time.client is not None:
        return ", ".join(filter(None, (time.client, groups.get(time.client, ""))))
    if time.cause == OWN_CORES:
        return "nobody"
    return "a client away" if time.cause == ABSENT else "a client not traced"


def cut_off(run: Run, times: Sequence[RoundTime]) -> str | None:
    """Say what is not on the trace, if anything."""
    if run.trace is None:
        return None
    extent = run.trace.extent
    lacking = []
    if extent.clients_traced < extent.clients:
        lacking.append(f"{extent.clients_traced} of {extent.clients} clients are on the trace")
    if len(times) < len(run.rows):
        lacking.append(f"{len(times)} of {len(run.rows)} rounds are")
    return f"The trace is cut off: {', '.join(lacking)}; others may have been later." if lacking else None


def sweep_nature(sweep: Sweep) -> str:
    """Say what was swept, and how."""

    def all_of(column: str) -> str:
        values = {row[column] for row in sweep.rows if row.get(column) is not None}
        return ", ".join(map(str, sorted(values)))

    seeds = "seeds" if len({row.get("seed") for row in sweep.rows}) > 1 else "seed"
    trained = any(row.get("metric.final") is not None for row in sweep.rows)
    runs = f"{len(sweep.rows)} run{'' if len(sweep.rows) == 1 else 's'}"
    more = len(sweep.unfinished)
    begun = f" {more} more {'is' if more == 1 else 'are'} not over." if more else ""
    return (
        f"{sweep.folder.resolve().name}: a sweep over {', '.join(sweep.keys)}; {runs} of "
        f"scenario {all_of('scenario')} ({all_of('task')}, {seeds} {all_of('seed')}), "
        f"simulated, in virtual time{'' if trained else '; nothing was trained'}.{begun}"
    )


def _seconds(run: Run, seconds: float) -> str:
    return f"{format_seconds(seconds)} of {run.clock} time"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "0%"
