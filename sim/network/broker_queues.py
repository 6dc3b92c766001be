"""The broker in virtual time: one queue for its work, and a bounded window and queue for each client."""

from bisect import bisect_right

from scenarios.schema.network import BrokerModel


class ServiceQueue:
    """The broker's own work: first come, first served, by one thread, as in mosquitto.

    Args:
        model: work for each message and byte.
    """

    def __init__(self, model: BrokerModel) -> None:
        self._message_s = model.per_message_us * 1e-6
        self._byte_s = model.per_byte_ns * 1e-9
        self._free_s = 0.0

    @property
    def takes_time(self) -> bool:
        """Whether there is any work for a message."""
        return self._message_s > 0 or self._byte_s > 0

    def serve(self, now_s: float, wire_bytes: int) -> float:
        """Give the time at which the broker has finished a message; calls come in order of time."""
        self._free_s = max(now_s, self._free_s) + self._message_s + wire_bytes * self._byte_s
        return self._free_s


class Window:
    """The broker's in-flight window and queue for one client.

    At most `in_flight` messages of QoS 1 are sent and not yet acknowledged, `queue_limit` more wait, and the
    broker drops the rest silently, as mosquitto does.

    Args:
        model: the two limits.
    """

    __slots__ = ("_acknowledged_s", "_in_flight", "_limit")

    def __init__(self, model: BrokerModel) -> None:
        self._in_flight = model.in_flight
        self._limit = model.in_flight + model.queue_limit
        self._acknowledged_s: list[float] = []  # when the PUBACK of each message comes, in order

    def reset(self) -> None:
        """Forget everything: a clean session."""
        self._acknowledged_s.clear()

    def admit(self, now_s: float, *, waits: bool = True) -> float | None:
        """Give the time from which one more message may be sent; None if it is dropped.

        Args:
            now_s: when it is there.
            waits: whether it waits for the window; one of QoS 0 does not.
        """
        acknowledged_s = self._acknowledged_s
        if acknowledged_s and acknowledged_s[0] <= now_s:
            del acknowledged_s[: bisect_right(acknowledged_s, now_s)]
        under_way = len(acknowledged_s)
        if under_way < (self._in_flight if waits else self._limit):
            return now_s
        return acknowledged_s[under_way - self._in_flight] if under_way < self._limit else None

    def awaited(self, now_s: float) -> list[float]:
        """Give when the PUBACKs come that have not come, in order."""
        return [puback_s for puback_s in self._acknowledged_s if puback_s > now_s]

    def has_room(self, under_way: int) -> bool:
        """Tell whether there is room for one more message beside `under_way` that the caller has counted."""
        return under_way < self._limit

    def sent(self, acknowledged_s: float) -> None:
        """Note when the PUBACK of the message just admitted comes back."""
        self._acknowledged_s.append(acknowledged_s)
