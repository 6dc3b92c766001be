"""Which of several brokers is next, and which of them have turned us away."""

import logging

from broker.errors import RefusedError
from broker.transports.access import Access, Context
from broker.urls import Address

log = logging.getLogger(__name__)

_waited_for: set[str] = set()
"""Brokers that are not there yet, as far as somebody was told."""


class Rotation:
    """Several brokers are tried in turn, from the first on again after each connection that stood.

    One that refuses us ends nothing as long as another one may let us in: perhaps its files are older.

    Args:
        access: how to get to the brokers.
        client_id: our name in the log.

    Attributes:
        address: of the broker whose turn it is.
        places: all of them, for people.
    """

    def __init__(self, access: Access, client_id: str) -> None:
        self._brokers = access.brokers
        self._contexts = {each: access.context(each) for each in access.brokers}
        self._turned_away = set[Address]()  # since the last connection that stood
        self._client_id = client_id
        self.address = access.brokers[0]
        self.places = " or ".join(map(str, access.brokers))

    @property
    def context(self) -> Context | None:
        """TLS for the broker whose turn it is; None: without."""
        return self._contexts[self.address]

    def stands(self) -> None:
        """Note that a connection stands."""
        _waited_for.discard(self.places)
        self._turned_away.clear()
        if self.context is not None:
            self.context.forget()

    def lost(self) -> None:
        """Begin at the first broker again: a connection that stood is lost.

        Raises:
            RefusedError: see `refused`; a broker can take a certificate off its list at any time.
        """
        self._look_for_an_alert()
        if not self._turned_away:
            self.address = self._brokers[0]

    def failed(self) -> None:
        """Go on with the next broker: this one did not answer, or hung up.

        Raises:
            RefusedError: see `refused`; this may be why it hung up.
        """
        before = self.address
        self._look_for_an_alert()
        if self.address is before:
            self._go_on()

    def refused(self, error: RefusedError) -> None:
        """Go on with the next broker: this one does not let us in.

        Raises:
            RefusedError: all have refused us.
        """
        is_news = self.address not in self._turned_away
        self._turned_away.add(self.address)
        if len(self._turned_away) == len(self._brokers):
            raise error
        if is_news:
            log.warning("%s: %s; trying the next broker", self._client_id, error)
        self._go_on()

    def are_waited_for(self, trouble: str) -> None:
        """Tell once, for all clients of this process, that no broker is there yet."""
        if self.places not in _waited_for:
            _waited_for.add(self.places)
            log.warning("no MQTT broker at %s yet (%s); waiting for it", self.places, trouble)

    def _go_on(self) -> None:
        self.address = self._brokers[(self._brokers.index(self.address) + 1) % len(self._brokers)]

    def _look_for_an_alert(self) -> None:
        """See what one side has against the other's certificate."""
        if self.context is not None:
            try:
                self.context.check(self.address)
            except RefusedError as error:
                self.refused(error)
