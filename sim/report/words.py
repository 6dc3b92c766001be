"""Says in words what each chart shows, computed from the data. One sentence or two for each."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from broker.cli.wording import format_bytes, format_seconds
from broker.exits import COMPLETE
from server_node.summary import total_wire_bytes, wire_bytes_so_far
from server_node.vocabulary.ledger import CONTROL, DOWN, FLOWS, U_SHAPE_FLOWS, UP
from sim.report.rounds import ABSENT, CLOSING, NOT_TRACED, WAITING, RoundTime
from sim.report.runs import Row, Run, Sweep
from sim.statistics.trials import higher_is_better, reached

NOTABLE = 0.1
"""A client held a round up when this share of it was lost to the median client."""

TOTAL = "bytes.total.wire"
"""Column that sweep points get: all flows, both directions."""

SECONDS = "virtual_seconds"
"""Column of a sweep's table."""

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
    codecs = ", ".join(f"{name} {run.scenario[path]}" for name, path in paths.items() if path in run.scenario)
    early = "" if summary["reason"] == COMPLETE else f" It ended early: {summary['reason']}."
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
    higher, first = _higher_is_better(run), rows[0]["metric"]
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
        f"{format_bytes(total / clients)} per client of the fleet, and {_seconds(run, last['elapsed_s'])}; "
        f"{part} was there {sooner}after {format_bytes(wire_bytes_so_far(half))} and "
        f"{_seconds(run, half['elapsed_s'])}."
    )


def _higher_is_better(run: Run) -> bool:
    return higher_is_better(run.summary["metric"].get("better"))


def _best(run: Run) -> Row:
    choose = max if _higher_is_better(run) else min
    return choose(evaluated(run), key=lambda row: row["metric"])


def race(runs: Sequence[Run]) -> str | None:
    """Compare what runs needed for the best metric that all of them reached."""
    scored = [run for run in runs if evaluated(run)]
    if len(scored) < 2 or len({run.summary["metric"]["name"] for run in scored}) > 1:  # noqa: PLR2004
        return None
    higher = _higher_is_better(scored[0])
    goal = (min if higher else max)(_best(run)["metric"] for run in scored)
    first = {
        run.label: next(row for row in evaluated(run) if reached(row["metric"], goal, higher_better=higher))
        for run in scored
    }
    needed = sorted(
        (
            (wire_bytes_so_far(first[run.label]), _seconds(run, first[run.label]["elapsed_s"]), run)
            for run in scored
        ),
        key=lambda each: each[0],
    )
    times = "; ".join(f"{run.label} {format_bytes(size)} and {took}" for size, took, run in needed)
    return f"To {scored[0].summary['metric']['name']} {goal:.3f}, which all reached, it took {times}."


def traffic(run: Run) -> str:
    """Say what was saved, and what most of the bytes were."""
    flows = run.summary["bytes"]
    wire, raw = total_wire_bytes(run.summary), sum(flow.get("raw_float32", 0) for flow in flows.values())
    if not wire:
        return "Nothing was sent."
    largest = max(flows, key=lambda name: flows[name]["wire"])
    up, down = (sum(flow["wire"] for name, flow in flows.items() if name in names) for names in (UP, DOWN))
    saved = f"as float32 {format_bytes(raw)}, {raw / wire:.2f} times as much"
    return (
        f"{format_bytes(wire)} in whole MQTT packets ({format_bytes(up)} up, {format_bytes(down)} "
        f"down); {saved}. The largest flow is {largest} with {flows[largest]['wire'] / wire:.0%}. "
        f"Control messages ({format_bytes(flows[CONTROL]['wire'])}) are in the total but not drawn."
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
    """Give the rounds that somebody held up, worst first."""
    late = [time for time in times if time.lost_s > NOTABLE * time.duration_s]
    return sorted(late, key=lambda time: time.lost_s, reverse=True)


def stragglers(times: Sequence[RoundTime]) -> str:
    """Say how many rounds were held up, why, and by whom."""
    late = held_up(times)
    if not late:
        return (
            f"Nobody held up a round: in none of {len(times)} was more than {NOTABLE:.0%} of its time lost "
            "between the median client and the last."
        )
    lost_s, total_s = sum(time.lost_s for time in late), sum(time.duration_s for time in times)
    (client, often), *_ = Counter(who(time) for time in late).most_common(1)
    why = Counter[str]()
    for time in late:
        why[time.cause] += 1
    reasons = ", ".join(f"{count} {_CAUSES[cause]}" for cause, count in why.most_common())
    return (
        f"{len(late)} of {len(times)} rounds were held up ({reasons}) and lost {format_seconds(lost_s)} "
        f"against the median client, {_share(lost_s, total_s)} of the time. "
        f"Most often it was {client} ({often} of them)."
    )


def who(time: RoundTime) -> str:
    """Name who held up a round."""
    if time.client is not None:
        return time.client
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


def pareto(points: Iterable[Row], cost: str) -> list[Row]:
    """Give the points that no other one beats in both cost, TOTAL or SECONDS, and metric; cheapest first."""
    front: list[Row] = []

    def gain(row: Row) -> float:
        higher = higher_is_better(row.get("metric.better"))
        return float(row["metric.final"] if higher else -row["metric.final"])

    for point in sorted(points, key=lambda row: (row[cost], -gain(row))):
        if not front or gain(point) > gain(front[-1]):
            front.append(point)
    return front


def sweep_points(sweep: Sweep) -> list[Row]:
    """Give the points that have a metric, each with its total of bytes."""
    return [row | {TOTAL: total_bytes(row)} for row in sweep.rows if row.get("metric.final") is not None]


def total_bytes(row: Row) -> int:
    """Sum up a sweep point's bytes: all flows, both directions."""
    return sum(row.get(f"bytes.{name}.wire") or 0 for name in (*FLOWS, *U_SHAPE_FLOWS, CONTROL))


def sweep_nature(sweep: Sweep) -> str:
    """Say what was swept, and how."""

    def all_of(column: str) -> str:
        return ", ".join(sorted({str(row[column]) for row in sweep.rows if row.get(column) is not None}))

    return (
        f"{sweep.folder.resolve().name}: a sweep over {', '.join(sweep.keys)}; {len(sweep.rows)} points of "
        f"scenario {all_of('scenario')} ({all_of('task')}, seed {all_of('seed')}), mode {all_of('mode')}."
    )


def sweep_front(sweep: Sweep) -> str:
    """Say what the ends of the two fronts are."""
    points = sweep_points(sweep)
    if not points:
        return f"None of the {len(sweep.rows)} points has a metric: nothing was trained, or all failed."
    best = pareto(points, TOTAL)[-1]
    text = f"The best of {len(points)} points reached {_point(sweep, best)}"
    told = [best]
    for cost, word in ((TOTAL, "cheapest"), (SECONDS, "quickest")):
        first = pareto(points, cost)[0]
        if first not in told:
            told.append(first)
            text += f"; the {word} one {_point(sweep, first)}"
    lacking = len(sweep.rows) - len(points)
    return f"{text}." + (
        f" {lacking} more points have no metric and are in the table only." if lacking else ""
    )


def _point(sweep: Sweep, row: Row) -> str:
    keys = ", ".join(f"{key} {unquoted(row[key])}" for key in sweep.keys)
    cost = f"{format_bytes(row[TOTAL])} and {format_seconds(row[SECONDS])}"
    return f"{row['metric.final']:.3f} after {cost} ({keys})"


def unquoted(value: object) -> str:
    """Write a swept value, which is JSON text if it was a mapping, without JSON's signs."""
    return str(value).translate(str.maketrans(",:", "  ", '"{}'))


def _seconds(run: Run, seconds: float) -> str:
    return f"{format_seconds(seconds)} of {run.clock} time"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "0%"
