"""Turns recordings of links into traces, and settings of other tools into links.

The forms are told apart by their content. docs/links.md has an example of each.
"""

import datetime as dt
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from scenarios.errors import ScenarioError
from scenarios.loading.explaining.explain import explain
from scenarios.loading.explaining.json_schema import tree_of
from scenarios.schema.base import Part
from scenarios.schema.links import GilbertElliott, Link, LinkState
from scenarios.text_files import read_text
from sim.network.csv_file import rows
from sim.network.links.importing.generators import Row

PACKET_BITS = 1500 * 8
"""Mahimahi: each line is the moment at which one full packet may leave."""

_FIELDS_OF_RIISER = 6
_UNITS = {
    "bit": 1e-3,
    "kbit": 1.0,
    "mbit": 1e3,
    "gbit": 1e6,
    "bps": 8e-3,
    "kbps": 8.0,
    "mbps": 8e3,
    "gbps": 8e6,
}
"""kbit/s in each unit of tc, whose kbps are kilobytes."""


M = TypeVar("M", bound=Part)
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"

MOST_STEPS = 10**6
"""Of a recording whose packets are counted; a tenth of a second each is more than a day."""


def rates_of(file: Path, every_s: float) -> list[tuple[float, float]]:
    """Read a recording of one direction: pairs of seconds since its start and kbit/s.

    Args:
        file: Mahimahi's milliseconds, one to a line; or lines of seconds and Mbit/s; or the six columns of
            the HSDPA logs of Riiser et al. 2013, of which the last two are bytes and milliseconds.
        every_s: step in which packets of Mahimahi are counted.

    Raises:
        ScenarioError: the file is none of these.
    """
    lines = [(place, _fields(line)) for place, line in _lines(file)]
    if lines and not any(_is_number(field) for field in lines[0][1]):
        del lines[0]  # names of the columns
    if not lines:
        raise ScenarioError(f"{file}: has no numbers")
    numbers = [[_number(file, place, field) for field in fields] for place, fields in lines]
    width = len(numbers[0])
    if bad := [place for (place, _), each in zip(lines, numbers, strict=True) if len(each) != width]:
        raise ScenarioError(f"{file}:{bad[0]}: not {width} columns, as in the first line")
    if width == 1:
        return _counted([value for (value,) in numbers], every_s)
    if width == 2:  # noqa: PLR2004
        return [(seconds - numbers[0][0], 1000 * mbps) for seconds, mbps in numbers]
    if width == _FIELDS_OF_RIISER:
        took = [(row[1] / 1000, 8 * row[4] / row[5] if row[5] else 0.0) for row in numbers]
        return [(seconds - took[0][0], kbps) for seconds, kbps in took]
    raise ScenarioError(
        f"{file}: has {width} columns; known are 1 (Mahimahi's milliseconds), 2 (seconds, Mbit/s) and "
        f"{_FIELDS_OF_RIISER} (the HSDPA logs)"
    )


def _counted(times_ms: list[float], every_s: float) -> list[tuple[float, float]]:
    """Count packets in steps until the last one, with which Mahimahi begins anew.

    The last step is as long as what is left, between half a step and one and a half. A recording that is
    shorter than a step, such as the single line 1, is a constant rate, in two steps.
    """
    every_ms = 1000 * every_s
    last_ms = max(times_ms)
    if last_ms / every_ms >= MOST_STEPS:
        raise ScenarioError(
            f"packets until {last_ms / 1000:g} s make more than {MOST_STEPS:,} steps of {every_s:g} s"
        )
    if last_ms == 0:
        raise ScenarioError("all packets are at 0 ms; the last line must say after how long they come again")
    steps = max(1, round(last_ms / every_ms))
    counts = Counter(min(int(time_ms / every_ms), steps - 1) for time_ms in times_ms)
    lengths_ms = {steps - 1: last_ms - (steps - 1) * every_ms}
    kbps = [counts[step] * PACKET_BITS / lengths_ms.get(step, every_ms) for step in range(steps)]
    rates = [(step * every_s, rate) for step, rate in enumerate(kbps)]
    return rates if steps > 1 else [*rates, (every_s, rates[0][1])]


def joined(up: list[tuple[float, float]], down: list[tuple[float, float]]) -> Iterator[Row]:
    """Make one trace of both directions' rates; an empty list leaves a direction to the link."""
    at: dict[float, dict[str, float]] = {}
    for name, rates in (("uplink_kbps", up), ("downlink_kbps", down)):
        for time_s, kbps in rates:
            at.setdefault(round(time_s, 6), {})[name] = round(kbps, 3)
    now: dict[str, float] = {}
    for time_s in sorted(at):
        now |= at[time_s]
        yield Row(time_s, _made(LinkState, now))


def mobile_log(file: Path) -> Iterator[Row]:
    """Read a log of a phone's modem: CSV with Timestamp, DL_bitrate and UL_bitrate in kbit/s.

    Such as the 4G and 5G data sets of Raca et al. (2018, 2020). PINGAVG, if it is there, is a
    round trip in milliseconds.

    Raises:
        ScenarioError: the file is none of these.
    """
    begun: dt.datetime | None = None
    before_s = -math.inf
    for where, row in rows(file, ("Timestamp", "DL_bitrate", "UL_bitrate")):
        try:
            at = dt.datetime.strptime(row["Timestamp"], "%Y.%m.%d_%H.%M.%S")  # noqa: DTZ007
            values = {"downlink_kbps": float(row["DL_bitrate"]), "uplink_kbps": float(row["UL_bitrate"])}
        except (KeyError, TypeError, ValueError) as error:
            needs = "Timestamp (2019.12.14_10.16.30), DL_bitrate and UL_bitrate"
            raise ScenarioError(f"{where}: needs {needs}, not {error}") from None
        begun = begun or at
        time_s = (at - begun).total_seconds()
        ping = row.get("PINGAVG") or ""
        if re.fullmatch(_DECIMAL, ping):
            values["latency_ms"] = float(ping) / 2
        if time_s > before_s:  # some seconds have two lines
            before_s = time_s
            yield Row(time_s, _made(LinkState, values))


def netem(text: str) -> Link:
    """Read a command of `tc qdisc ... netem` as a link whose two directions are alike.

    Raises:
        ScenarioError: it says something else than delay, distribution, loss, rate and limit.
    """
    words = text.split()
    if "netem" in words:
        words = words[words.index("netem") + 1 :]
    link: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if word not in NETEM:
            known = ", ".join(NETEM)
            raise ScenarioError(f"'{word}' of netem is not known here; known: {known}")
        if not words:
            raise ScenarioError(f"'{word}' of netem needs a value")
        link |= NETEM[word](words)
    return _made(Link, link)


def _delay(words: list[str]) -> dict[str, Any]:
    link: dict[str, Any] = {"latency_ms": _milliseconds(words.pop(0))}
    if words and re.match(r"[\d.]+(?![\d.%])", words[0]):
        link |= {"jitter_ms": _milliseconds(words.pop(0)), "jitter_per": "packet"}
    list(_shares(words))  # a correlation of the jitter has no counterpart
    return link


def _loss(words: list[str]) -> dict[str, Any]:
    kind = words.pop(0) if words[0] in ("random", "gemodel") else "random"
    shares = list(_shares(words))
    if not shares:
        raise ScenarioError("loss of netem: needs a share, such as 0.3%")
    if kind == "random":
        return {"loss": shares[0]}
    names = ("p", "r", "loss_in_bad", "loss_in_good")
    usual = {"r": 1 - shares[0]}  # as tc has it
    return {"loss": _made(GilbertElliott, usual | dict(zip(names, shares, strict=False)))}


def _rate(words: list[str]) -> dict[str, Any]:
    return dict.fromkeys(("uplink_kbps", "downlink_kbps"), _kbps(words.pop(0)))


def _distribution(words: list[str]) -> dict[str, Any]:
    return {"jitter": "normal" if words.pop(0) == "normal" else "uniform"}


def _limit(words: list[str]) -> dict[str, Any]:
    words.pop(0)
    return {}  # queues have no end here


NETEM = {"delay": _delay, "distribution": _distribution, "loss": _loss, "rate": _rate, "limit": _limit}


def toxiproxy(text: str) -> Link:
    """Read toxics of toxiproxy, a JSON list: latency and bandwidth, upstream and downstream.

    Its latency is added in each direction that has one; a link has one for both, their mean.

    Raises:
        ScenarioError: it is no such list, or has other toxics.
    """
    try:
        toxics = json.loads(text)
        toxics = toxics["toxics"] if isinstance(toxics, dict) else toxics
        link: dict[str, float] = {}
        for toxic in toxics:
            up = toxic.get("stream", "downstream") == "upstream"
            given = toxic["attributes"]
            match toxic["type"]:
                case "bandwidth":
                    link["uplink_kbps" if up else "downlink_kbps"] = 8.0 * given["rate"]  # kilobytes a second
                case "latency":
                    link["latency_ms"] = link.get("latency_ms", 0.0) + given.get("latency", 0) / 2
                    link["jitter_ms"] = max(link.get("jitter_ms", 0.0), given.get("jitter", 0) / 3**0.5)
                case other:
                    raise ScenarioError(
                        f"'{other}' of toxiproxy is not known here; known: latency, bandwidth"
                    )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ScenarioError(f"no list of toxiproxy's toxics: {error}") from None
    return _made(Link, link | {"jitter": "uniform"})


def _made(model: type[M], values: Mapping[str, Any]) -> M:
    """Make a part of a scenario of somebody's numbers; the first mistake is told in words."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        key, text = explain(error, values, tree_of(model))[0]
        raise ScenarioError(": ".join((*map(str, key), text))) from None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for place, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield place, line


def _fields(line: str) -> list[str]:
    """Split a line at commas and spaces; at semicolons or tabs, where a comma is a decimal one."""
    if ";" in line or "\t" in line.strip():
        line = re.sub(r"(?<=\d),(?=\d)", ".", line).replace(";", " ")
    return line.replace(",", " ").split()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(file: Path, place: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ScenarioError(f"{file}:{place}: '{text}' is no number") from None
    if not 0 <= value < math.inf:
        raise ScenarioError(f"{file}:{place}: {text} must be a number of at least 0")
    return value


def _shares(words: list[str]) -> Iterator[float]:
    while words and re.fullmatch(_DECIMAL + "%", words[0]):
        yield float(words.pop(0)[:-1]) / 100


def _milliseconds(text: str) -> float:
    found = re.fullmatch(f"({_DECIMAL})(us|usec|usecs|ms|msec|msecs|s|sec|secs)?", text)
    if not found:
        raise ScenarioError(f"'{text}' is no time of netem, such as 100ms")
    unit = (found[2] or "us")[0]  # tc: microseconds, if no unit is given
    return float(found[1]) * {"u": 1e-3, "m": 1.0, "s": 1e3}[unit]


def _kbps(text: str) -> float:
    found = re.fullmatch(f"({_DECIMAL})([a-z]+)?", text.lower())
    unit = found[2] or "bit" if found else ""
    if not found or unit not in _UNITS:
        raise ScenarioError(f"'{text}' is no rate of netem, such as 1mbit")
    return float(found[1]) * _UNITS[unit]


SETTINGS: dict[str, Callable[[str], Link]] = {"netem": netem, "toxiproxy": toxiproxy}
