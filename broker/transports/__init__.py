"""How messages travel: over MQTT, or within one process."""

from broker.transports.base import (
    Connect,
    Connected,
    Disconnected,
    Event,
    Frame,
    Refused,
    Transport,
    TransportStats,
    Will,
)
from broker.transports.memory import MemoryBroker, MemoryTransport
from broker.transports.mqtt import MqttTransport

__all__ = [
    "Connect",
    "Connected",
    "Disconnected",
    "Event",
    "Frame",
    "MemoryBroker",
    "MemoryTransport",
    "MqttTransport",
    "Refused",
    "Transport",
    "TransportStats",
    "Will",
]
