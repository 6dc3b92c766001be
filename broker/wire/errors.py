"""What can be wrong with bytes from outside; broker.errors draws the whole tree."""


class WireError(ValueError):
    """Bytes from outside that break the protocol; they are counted by `reason` and dropped.

    Attributes:
        reason: a short stable word for counters and for the Rejected answer, such as "malformed",
            "version", "shape", "range", "not-finite", "too-large".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
