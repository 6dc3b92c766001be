"""What refused batches and head updates say: of the clients that sent them, or of the model."""

from collections.abc import Callable, Mapping

from broker.wire.errors import WireError

NAMED = 5
"""So many clients are named; of the others the number is told."""


def is_too_large(error: WireError) -> bool:
    """Say whether a payload was refused for the size of its numbers, as when a model diverges."""
    return error.reason == "range" and "magnitude" in str(error)


def is_model_lost(good: int, refused: Mapping[str, WireError], passes: Callable[[], bool]) -> bool:
    """Say whether it is the model that is at fault, not the clients whose numbers were refused.

    One client ends nothing: at least two must have been refused, and more than were not; or the server's own
    model must fail on the server's own data.

    Args:
        good: clients whose numbers were not refused.
        refused: by client.
        passes: tries the model on the server's own data.
    """
    if not refused or good >= len(refused):
        return False
    return len(refused) > 1 or not passes()


def named(refused: Mapping[str, WireError]) -> str:
    """Name some of those that were refused, and why the last one was."""
    names = sorted(refused)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{refused[names[-1]]} ({', '.join(names[:NAMED])}{more})"
