"""The state of a client's state machine, apart from whose it is: many devices share one."""

from operator import attrgetter

from edge_client.core import ClientCore

State = tuple[object, ...]
"""What a state machine has heard and said, that computes nothing; its last answer comes first."""

_OWN = {"_client", "_first_session", "_hello", "_run"}
_BUSY = "_busy"
_NAMES = sorted(set(ClientCore.__slots__) - _OWN - {_BUSY}, key=lambda name: (name != "_answer", name))
_of = attrgetter(*_NAMES)


def state_of(core: ClientCore) -> State:
    """Give what a state machine has heard and said, while it computes nothing."""
    assert getattr(core, _BUSY) is None
    state: State = _of(core)
    return state


def become(core: ClientCore, state: State) -> None:
    """Let a state machine have heard and said what another client's has."""
    setattr(core, _BUSY, None)
    for name, value in zip(_NAMES, state, strict=True):
        setattr(core, name, value)
