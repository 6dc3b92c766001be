"""What lost connections have in common: somebody else has our name, or our packets are too large."""

from dataclasses import dataclass, field

SOON_S = 10.0
"""A connection that is lost within this time, or so long after a large packet, was lost because of it."""

TIMES = 3
"""So many such losses in a row are no accident."""

LARGE_BYTES = 4096
"""Brokers take smaller packets."""


@dataclass(slots=True)
class Losses:
    """Watches one client's connections, and gives each warning once.

    Attributes:
        client_id: its MQTT client identifier, for the text.
    """

    client_id: str
    _connected_s: float = 0.0
    _large_s: float | None = None  # when the first large packet was sent that is not acknowledged
    _smallest: int = 0  # the smallest large packet that a connection did not survive
    _after_connecting: int = 0
    _after_large: int = 0
    _told: set[str] = field(default_factory=set)  # the reasons that were given

    def connected(self, now_s: float) -> None:
        """Note that a connection stands."""
        self._connected_s, self._large_s = now_s, None

    def sends(self, packet_bytes: int, now_s: float) -> None:
        """Note that a packet is sent."""
        if packet_bytes > LARGE_BYTES and self._large_s is None:
            self._large_s = now_s
            self._smallest = min(self._smallest or packet_bytes, packet_bytes)

    def acknowledged(self, packet_bytes: int) -> None:
        """Note that the broker has taken a packet."""
        if packet_bytes > LARGE_BYTES:
            self._large_s, self._smallest, self._after_large = None, 0, 0

    def lost(self, now_s: float) -> str | None:
        """Note that the connection is lost; give a warning for people if there is a reason for one."""
        if self._large_s is not None and now_s - self._large_s <= SOON_S:
            self._after_connecting = 0
            self._after_large += 1
            return self._tell(
                self._after_large,
                f"right after a packet of {self._smallest} bytes was sent",
                "the broker may limit packets; set broker.packet_bytes",
            )
        is_soon = now_s - self._connected_s <= SOON_S
        self._after_connecting = self._after_connecting + 1 if is_soon else 0
        return self._tell(
            self._after_connecting,
            "soon after it was made",
            f"another process may use the client id {self.client_id}, or the same user or bundle",
        )

    def _tell(self, count: int, when: str, why: str) -> str | None:
        if count < TIMES or why in self._told:
            return None
        self._told.add(why)
        return f"the connection was lost {count} times in a row {when}: {why}"
