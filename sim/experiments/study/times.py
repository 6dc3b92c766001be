"""Which arm of a study reaches the target first, over each link, as far as its seeds can tell."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean

from broker.cli.wording import format_ratio
from sim.experiments.study.results import Group, by_arm, evaluated_as_often
from sim.statistics.comparison import spread
from sim.statistics.estimates import Verdict, difference, estimate, ratio

TIMES = """## Who reaches the target first over each link

Seconds are means ± half of their 95 % t-interval. First is, of the arms that reached the target most often,
the one whose mean is least; the others are compared with it by runs of the same seed. *Times*: the
geometric mean of the ratios. *Slower* only where the interval of the ratios, widened so that it holds for all
pairs at once, is above 1. ≥: runs that did not reach the target count with their whole time, less
than they need. ≤: sizes depend on what is encoded, and were taken at their largest."""

HEAD = ("arm", "link", "reached", "seconds", "times", "verdict")


def rows_of_times(groups: Sequence[Group], links: Sequence[str]) -> list[list[str]]:
    """Give a row for each link and arm, the quickest first; none if no arm was trained over each link.

    Where nothing but the time differs between links, the table of the target says all.

    Args:
        groups: the arms of one task.
        links: names of the study's links, the first one first.
    """
    rows = chain.from_iterable(each.row.items() for group in groups for each in group)
    trained = {name for name, value in rows if value is not None}
    if not trained & {f"final.{link}" for link in links[1:]}:
        return []
    timed = by_arm(evaluated_as_often(list(chain.from_iterable(groups))))
    return [row for link in links for row in _over(timed, link)]


def _over(groups: Sequence[Group], link: str) -> list[list[str]]:
    reached, whole = f"target_s.{link}", f"end_s.{link}"
    seconds: dict[str, dict[int, float]] = {}
    successes: dict[str, int] = {}
    largest: set[str] = set()
    for group in groups:
        name, there = group[0].run.arm.name, [each for each in group if each.row.get(whole) is not None]
        if there:
            in_time = {each.run.seed: each.row[reached] for each in there if each.row[reached] is not None}
            seconds[name] = {each.run.seed: each.row[whole] for each in there} | in_time
            successes[name] = len(in_time)
            largest |= {name for each in there if each.row.get(f"bound.{link}")}
    ranked = sorted(
        seconds,
        key=lambda name: (-successes[name] / len(seconds[name]), fmean(seconds[name].values())),
    )
    rows = []
    for name in ranked:
        mine, its = seconds[name], seconds[ranked[0]]
        times = ratio(mine, its)
        pairs = max(1, math.comb(len(ranked), 2))
        apart = difference(_logs(mine), _logs(its), higher_is_better=False, at_once=pairs)
        words = "" if apart is None else apart.in_words.replace(Verdict.WORSE, "slower")
        if not successes[name] and (apart is None or apart.verdict is not Verdict.WORSE):
            words = "not reached"
        bound = "≥ " if successes[name] < len(mine) else "≤ " if name in largest else ""
        rows.append(
            [
                name,
                link,
                f"{successes[name]} of {len(mine)}",
                bound + spread(estimate(list(mine.values())), "{:.0f}".format),
                "" if times is None or its is mine else bound + format_ratio(times.mean, 2),
                "first" if its is mine and successes[name] else words,
            ]
        )
    return rows


def _logs(seconds: Mapping[int, float]) -> dict[int, float]:
    """Give logarithms: what makes a run twice as long does so in a short run and in a long one."""
    return {seed: math.log(value) for seed, value in seconds.items()}
