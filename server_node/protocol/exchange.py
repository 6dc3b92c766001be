"""One client's exchange with the server in a round: whose turn it is, and what to say again."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

import msgspec

from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate

MAX_REPEATS = 5
"""After so many unanswered repetitions a member is dropped from its round."""

M = TypeVar("M", Assignment, Gradient)


class Turn(Enum):
    """Whose turn it is in an exchange."""

    CLIENT = auto()
    """The client owes its next activations or its head update."""
    TAIL = auto()
    """Its activations are here and wait for the tail."""
    DONE = auto()
    """Its head update is here; it waits for the round to close."""


@dataclass(slots=True)
class Exchange:
    """A member of the cohort at work.

    Attributes:
        assignment: what it was told to begin with.
        turn: see Turn.
        step: the next step whose activations it owes; as many as there are steps when it owes its update.
        gradient: the last one it was sent.
        activations: those that wait for the tail.
        update: its head update.
        silent: nothing new has come from it since the last tick of the retry timer.
        repeats: how often the message that it has not answered was repeated.
    """

    assignment: Assignment
    turn: Turn = Turn.CLIENT
    step: int = 0
    gradient: Gradient | None = None
    activations: Activations | None = None
    update: HeadUpdate | None = None
    silent: bool = False
    repeats: int = 0

    def take_activations(self, message: Activations) -> None:
        """Note the activations of its step; it is now the tail's turn."""
        self.activations, self.turn = message, Turn.TAIL
        self.silent, self.repeats = False, 0

    def take_update(self, message: HeadUpdate) -> None:
        """Note its head update; it is done with the round."""
        self.update, self.turn = message, Turn.DONE

    def answer(self, correction: float, payload: bytes) -> Gradient:
        """Give the gradient that answers its activations; it is now the client's turn."""
        assert self.activations is not None
        answered, self.activations, self.turn = self.activations, None, Turn.CLIENT
        self.step += 1
        self.gradient = Gradient(answered.round, answered.step, 1, correction, payload)
        return self.gradient

    def again(self) -> Assignment | Gradient:
        """Give the message that it has not answered, with its attempt counted up."""
        if self.gradient is None:
            self.assignment = _next_attempt(self.assignment)
            return self.assignment
        self.gradient = _next_attempt(self.gradient)
        return self.gradient

    def start_over(self) -> Assignment:
        """Give the assignment once more to a client that has lost its state."""
        self.assignment = _next_attempt(self.assignment)
        return self.assignment


def _next_attempt(message: M) -> M:
    return msgspec.structs.replace(message, attempt=message.attempt + 1)
