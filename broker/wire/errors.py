"""The error for bytes from outside that break the protocol; broker.errors shows the tree of all errors."""


class WireError(ValueError):
    """Bytes from outside break the protocol. They are dropped, and counted by `reason`.

    Attributes:
        reason: a short stable word for counters and for the Rejected answer, such as "malformed",
            "version", "shape", "range", "not-finite", "too-large".
        detail: what is wrong, in words.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
