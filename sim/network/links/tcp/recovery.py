"""How much is sent while losses are repaired: proportional rate reduction, RFC 6937 with Linux's changes."""


class Recovery:
    """Brings what is under way down to the threshold, or up to it, as segments leave the network.

    Args:
        before: the window when the loss was noticed.

    Attributes:
        out: segments sent since then.
    """

    __slots__ = ("_before", "_delivered", "out")

    def __init__(self, before: int) -> None:
        self._before = before
        self._delivered = self.out = 0

    def window(self, threshold: int, under_way: int, lost: int, delivered: int, *, advanced: bool) -> int:
        """Give the window after an acknowledgement.

        Args:
            threshold: what the window is to be in the end.
            under_way: segments.
            lost: that were found to be so now.
            delivered: that have left the network since the acknowledgement before.
            advanced: whether more has come without a gap.
        """
        self._delivered += delivered
        missing = threshold - under_way
        if missing < 0:
            more = -(-threshold * self._delivered // self._before) - self.out
        else:
            more = max(self._delivered - self.out, delivered) + (advanced and not lost)
            more = min(missing, more)
        return under_way + max(more, 0 if self.out else 1)
