"""An access point or backhaul whose rate is divided among the transfers under way: a fluid, max-min fair.

Everybody gets the same rate, the fair share, unless its own link allows less. Rates change only when a
transfer begins or ends. Equations and limits: docs/models.md.
"""

import heapq
import itertools
import math
from bisect import bisect_left
from collections.abc import Callable

from sim.network.clock import Clock

_UNLIMITED = 1e300
"""Bytes per second in place of an infinite rate: inf - inf and 0 * inf are no numbers."""

_ROUNDING_S = 1e-9
"""A transfer that has so little time left has ended; virtual time is a float."""


class Transfer:
    """A message that passes a bottleneck.

    Args:
        size_bytes: with headers.
        cap: the rate that its own link allows, bytes per second; may be infinite.
        done: called when the last byte has passed.
    """

    __slots__ = ("cap", "done", "entry", "size_bytes")

    def __init__(self, size_bytes: float, cap: float, done: Callable[[], None]) -> None:
        self.size_bytes = size_bytes
        self.cap = min(cap, _UNLIMITED)
        self.done = done
        self.entry: _Entry | None = None  # of its class's heap, while it is there


class _RateClass:
    """All transfers with one cap. They have the same rate at any time, so whoever has least left ends first.

    A class is either capped (its transfers have the rate `cap`) or fair (they have the fair share). What a
    transfer here has received is counted in two steps: `received_bytes` up to the mark `since`, and from
    there by the bottleneck's progress: seconds for capped classes, bytes of a fair share for the others.

    Attributes:
        fair: which of the two it is.
        count: transfers that are here.
        received_bytes: of a transfer that has been here since the class began, up to `since`.
        since: progress when that was counted.
        ends: heap of (received_bytes at which it ends, number of the transfer, transfer); void when it is no
            longer the transfer's own entry.
        next_end: the entry of the bottleneck's heap that counts; older ones are void.
    """

    __slots__ = ("cap", "count", "ends", "fair", "next_end", "received_bytes", "since")

    def __init__(self, cap: float, *, fair: bool, since: float) -> None:
        self.cap = cap
        self.fair = fair
        self.count = 0
        self.received_bytes = 0.0
        self.since = since
        self.ends: list[_Entry] = []
        self.next_end: _End | None = None

    def received(self, progress: float) -> float:
        """Give the bytes that a transfer here has received at a progress, if it was here from the start."""
        return self.received_bytes + (progress - self.since) * (1.0 if self.fair else self.cap)


_Entry = tuple[float, int, Transfer]
_End = tuple[float, int, _RateClass]
"""Progress at which a class's first transfer ends, a number that settles ties, and the class."""


class Bottleneck:
    """One direction of an access point.

    A transfer that begins or ends costs O(log n), and O(log n) for every class of equal caps that the fair
    share rises above or falls below through it: virtual finish times, as in fair queueing.

    Args:
        clock: virtual time.
        rate: what there is to share, bytes per second; infinite if unlimited. Or what gives it at a time, and
            until when it holds.
    """

    def __init__(self, clock: Clock, rate: float | Callable[[float], tuple[float, float]]) -> None:
        self._clock = clock
        self._look = rate if callable(rate) else lambda _: (rate, math.inf)
        self._bytes_per_s = _UNLIMITED
        self._holds_until_s = -math.inf
        self._classes: list[_RateClass] = []  # by their caps; the first `_capped` are capped, the others fair
        self._capped = 0
        self._capped_bytes_per_s = 0.0  # of all transfers in capped classes
        self._fair_transfers = 0
        self._share_bytes_per_s = math.inf
        self._share_bytes = 0.0  # what one fair share has carried up to `_counted_until_s`
        self._counted_until_s = 0.0
        self._capped_ends: list[_End] = []  # heaps; progress is in seconds here
        self._fair_ends: list[_End] = []  # and here in bytes of a share
        self._numbers = itertools.count()
        self._plan = 0  # only the latest planned completion counts

    def begin(self, transfer: Transfer) -> None:
        """Let a transfer in."""
        self._count()
        members = self._class_of(transfer.cap)
        end_bytes = members.received(self._progress(members)) + transfer.size_bytes
        transfer.entry = end_bytes, next(self._numbers), transfer
        heapq.heappush(members.ends, transfer.entry)
        self._change(members, 1)
        self._divide()

    def abort(self, transfer: Transfer) -> None:
        """Take a transfer out before it is done."""
        self._count()
        transfer.entry = None
        self._change(self._class_of(transfer.cap), -1)
        self._divide()

    def _count(self) -> None:
        """Bring the fair share's bytes up to now."""
        elapsed_s = self._clock.now - self._counted_until_s
        self._counted_until_s = self._clock.now
        if self._fair_transfers:
            self._share_bytes += self._share_bytes_per_s * elapsed_s
        if self._clock.now >= self._holds_until_s:  # while there are transfers, that is looked at in time
            bytes_per_s, self._holds_until_s = self._look(self._clock.now)
            self._bytes_per_s = min(bytes_per_s, _UNLIMITED)

    def _progress(self, members: _RateClass) -> float:
        return self._share_bytes if members.fair else self._counted_until_s

    def _class_of(self, cap: float) -> _RateClass:
        """Find the class of a cap; a new one is put between its neighbours, fair if it may be."""
        place = bisect_left(self._classes, cap, key=lambda members: members.cap)
        if place == len(self._classes) or self._classes[place].cap != cap:
            fair = place >= self._capped
            since = self._share_bytes if fair else self._counted_until_s
            self._classes.insert(place, _RateClass(cap, fair=fair, since=since))
            self._capped += not fair
        return self._classes[place]

    def _change(self, members: _RateClass, more: int) -> None:
        """Count one transfer more or less in a class, and drop the class with its last one."""
        members.count += more
        self._weigh(members, more)
        if members.count:
            self._note_next_end(members)
        else:
            members.next_end = None
            self._classes.remove(members)
            self._capped -= not members.fair

    def _weigh(self, members: _RateClass, transfers: int) -> None:
        """Add so many of a class's transfers to what is fair or capped."""
        if members.fair:
            self._fair_transfers += transfers
        else:
            self._capped_bytes_per_s += transfers * members.cap

    def _note_next_end(self, members: _RateClass) -> None:
        """Put a class's first end in its heap, if it has changed."""
        while members.ends[0][2].entry is not members.ends[0]:
            heapq.heappop(members.ends)
        left_bytes = members.ends[0][0] - members.received_bytes
        if members.fair:
            progress = members.since + left_bytes
        else:
            progress = members.since + left_bytes / members.cap if members.cap else math.inf
        if members.next_end is None or members.next_end[0] != progress:
            members.next_end = (progress, next(self._numbers), members)
            heapq.heappush(self._fair_ends if members.fair else self._capped_ends, members.next_end)

    def _fair_share(self) -> float:
        """Give what the capped transfers leave to each other one, bytes per second."""
        left = self._bytes_per_s - self._capped_bytes_per_s
        if self._fair_transfers:
            return left / self._fair_transfers
        return math.inf if left >= 0 else 0.0

    def _divide(self) -> None:
        """Move classes until the fair share is at least every capped one's cap, and below all others'.

        Both loops end: moving a class leaves the share on the same side of the class's cap.
        """
        while self._capped and self._classes[self._capped - 1].cap > self._fair_share():
            self._capped -= 1
            self._move(self._classes[self._capped], fair=True)
        while self._capped < len(self._classes) and self._classes[self._capped].cap <= self._fair_share():
            self._move(self._classes[self._capped], fair=False)
            self._capped += 1
        self._share_bytes_per_s = self._fair_share()
        self._plan_completion()

    def _move(self, members: _RateClass, *, fair: bool) -> None:
        members.received_bytes = members.received(self._progress(members))
        self._weigh(members, -members.count)
        members.fair = fair
        members.since = self._progress(members)
        members.next_end = None
        self._weigh(members, members.count)
        self._note_next_end(members)

    def _plan_completion(self) -> None:
        if not self._capped:
            self._capped_bytes_per_s = 0.0  # rounding may have left a little
            self._capped_ends.clear()
        if not self._fair_transfers:
            self._share_bytes = 0.0  # small numbers are exact ones
            self._fair_ends.clear()
        for ends in (self._capped_ends, self._fair_ends):
            while ends and ends[0][2].next_end is not ends[0]:
                heapq.heappop(ends)
        next_s = self._capped_ends[0][0] if self._capped_ends else math.inf
        if self._fair_ends and self._share_bytes_per_s:
            left_s = (self._fair_ends[0][0] - self._share_bytes) / self._share_bytes_per_s
            next_s = min(next_s, self._counted_until_s + left_s)
        next_s = min(next_s, self._holds_until_s)
        self._plan += 1
        if self._classes and next_s < math.inf:
            self._clock.at(next_s, self._complete, self._plan)

    def _complete(self, plan: int) -> None:
        """End the transfers whose last byte has passed, in the order in which they began."""
        if plan != self._plan:
            return
        self._count()
        rounding_s = _ROUNDING_S + math.ulp(self._clock.now)
        ended = self._ended(self._capped_ends, self._clock.now + rounding_s)
        ended += self._ended(self._fair_ends, self._share_bytes + self._share_bytes_per_s * rounding_s)
        self._divide()
        for _, transfer in sorted(ended, key=lambda numbered: numbered[0]):
            transfer.done()

    def _ended(self, ends: list[_End], progress: float) -> list[tuple[int, Transfer]]:
        """Take out the transfers that end up to a progress."""
        ended = []
        while ends and ends[0][0] <= progress:
            end = heapq.heappop(ends)
            members = end[2]
            if members.next_end is end:
                _, number, transfer = heapq.heappop(members.ends)
                transfer.entry = None
                ended.append((number, transfer))
                members.next_end = None
                self._change(members, -1)
        return ended
