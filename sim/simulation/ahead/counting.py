"""Counts what the devices of a talk have heard, computed and sent, and shows it."""

import msgspec

from sim.chrome_trace import Trace
from sim.network.showing import show
from sim.simulation.ahead.rest import Rest
from sim.simulation.ahead.talk import Places, Talk


def count(talk: Talk, rest: Rest, trace: Trace, now_s: float) -> None:
    """Count in the tables what the devices of a talk have heard, computed and sent until now."""
    tables, columns = rest.tables, talk.columns
    told, answer = talk.told, talk.answer
    if talk.counted_s == now_s and talk.counted == talk.next:
        return
    talk.counted_s = now_s
    if len(places := talk.hears(now_s)):
        heard_s = talk.heard_s[places]
        tables.counts(columns[places], told.on_link.back, told.on_link.there, heard_s)
        tables.computes(columns[places], talk.done_s[places] - heard_s)
        _show(talk, places, "downlink", rest, trace)
    if len(places := talk.sends(now_s)):
        tables.leaves(columns[places], talk.sent_s[places] - talk.left_s[places])
    if len(places := talk.arrives()):
        times = talk.left_s[places], talk.arrival_s[places]
        tables.answered(columns[places], answer.on_link, *times, answer.pubacks)
        _show(talk, places, "uplink", rest, trace)


def _show(talk: Talk, places: Places, direction: str, rest: Rest, trace: Trace) -> None:
    """Show what some devices have heard and compute, or have answered, if the trace shows them."""
    for place in talk.traced.keys() & places.tolist() if talk.traced else ():
        lane, computer = talk.traced[place], rest.shown_computer(talk.numbers[place])
        if direction == "downlink":
            heard_s = float(talk.heard_s[place])
            show(trace, lane, direction, talk.told, float(talk.began_s[place]), heard_s)
            computer.show(talk.job, heard_s, rest.computer_of(talk.kind).slowdown.factor())
        else:
            answer = msgspec.structs.replace(talk.answer, asked_s=float(talk.done_s[place]))
            show(trace, lane, direction, answer, float(talk.left_s[place]), float(talk.arrival_s[place]))
