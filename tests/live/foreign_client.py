"""A client that shares no code with this project: msgpack, numpy and paho, written from docs/protocol.md.

    python foreign_client.py HOST PORT RUN NAME

Its head is one linear layer and a ReLU. It knows neither the scenario nor the server's random numbers; all
that it needs comes in Welcome and Assignment. It speaks the codecs float32, float16, int8 and pq. It prints
how many updates it has sent, and why the run ended.
"""

import queue
import struct
import sys
import time
import zlib
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

VERSION = 3
(
    HELLO,
    STATUS,
    RUN_STATE,
    ASSIGNMENT,
    ACTIVATIONS,
    GRADIENT,
    UPDATE,
    REJECTED,
    ASK,
    PROGRESS,
    RELEASED,
    WELCOME,
) = range(1, 13)
MISSING, WORKING, ANSWERED, REFUSED = range(4)
FLOAT32, FLOAT16, INT8, PQ = 0, 1, 2, 7
INPUTS, SAMPLES = 8, 50
Array = npt.NDArray[np.float32]


def halves(data: bytes, count: int) -> Array:
    (exponent,) = struct.unpack_from("<b", data)
    values = np.frombuffer(data, "<f2", count, 1).astype(np.float32)
    scaled: Array = values * np.float32(2.0**exponent)
    return scaled


def to_halves(values: Array) -> bytes:
    largest = float(np.abs(values).max())
    exponent = int(np.clip(np.frexp(largest)[1] - 15, -126, 112))
    return struct.pack("<b", exponent) + (values * np.float32(2.0**-exponent)).astype("<f2").tobytes()


def packed(values: npt.NDArray[np.integer], bits: int) -> bytes:
    stream = (values.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpacked(data: bytes, bits: int, count: int) -> npt.NDArray[np.int64]:
    stream = np.unpackbits(np.frombuffer(data, np.uint8), count=bits * count, bitorder="little")
    values: npt.NDArray[np.int64] = stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))
    return values


def decode(codec: list[Any], data: bytes, n: int, d: int) -> Array:
    match codec:
        case [0]:  # FLOAT32
            return np.frombuffer(data, "<f4").reshape(n, d).astype(np.float32)
        case [1]:  # FLOAT16
            return halves(data, n * d).reshape(n, d)
        case [2]:  # INT8
            blocks = -(-n * d // 256)
            scales = np.repeat(halves(data, blocks), 256)[: n * d]
            return (
                (scales * (unpacked(data[1 + 2 * blocks :], 8, n * d) - 127)).astype(np.float32).reshape(n, d)
            )
        case _:
            raise NotImplementedError(codec)


def encode(codec: list[Any], x: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    """The payload, and what the other side makes of it."""
    n, d = x.shape
    if codec[0] == PQ:
        _, q, groups, centroids = codec
        assert groups == 1
        points = x.reshape(n * q, d // q)
        book = points[rng.choice(len(points), centroids)].copy()
        for _ in range(5):
            nearest = ((points[:, None] - book[None]) ** 2).sum(axis=2).argmin(axis=1)
            for k in np.unique(nearest):
                book[k] = points[nearest == k].mean(axis=0)
        sent = to_halves(book)
        book = halves(sent, book.size).reshape(book.shape)
        nearest = ((points[:, None] - book[None]) ** 2).sum(axis=2).argmin(axis=1)
        return sent + packed(nearest, (centroids - 1).bit_length()), book[nearest].reshape(n, d)
    payload = to_halves(x) if codec == [FLOAT16] else x.astype("<f4").tobytes()
    return payload, decode(codec, payload, n, d)


class Client:
    def __init__(self, host: str, port: int, run: str, name: str) -> None:
        self.run, self.name = run, name
        self.session = time.time_ns() // 1_000_000
        self.events: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.parts: dict[int, dict[int, bytes]] = {}
        self.rng = np.random.default_rng(5)
        corners = np.tile(np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32), (1, INPUTS // 2))
        self.labels = self.rng.integers(0, 4, SAMPLES)
        noise = 0.5 * self.rng.standard_normal((SAMPLES, INPUTS))
        self.inputs = (corners[self.labels] + noise).astype(np.float32)
        self.server = self.round = self.step = 0
        self.greeted = self.refused = False
        self.welcome: list[Any] = []
        self.answer: list[Any] = []
        self.updates = 0
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, f"{run}-{name}", protocol=mqtt.MQTTv311)
        self.mqtt.on_message = lambda _client, _data, said: self.events.put((said.topic, bytes(said.payload)))
        self.mqtt.on_subscribe = lambda *_: self.events.put(("", b""))
        self.mqtt.will_set(f"fl/3/{run}/status/{name}", self.status(online=False), 1, retain=True)
        self.mqtt.connect(host, port, keepalive=30)
        self.mqtt.subscribe([(f"fl/+/{run}/state", 1), (f"fl/3/{run}/d/{name}", 1)])

    def status(self, *, online: bool) -> bytes:
        data: bytes = msgpack.packb([VERSION, STATUS, online, self.session])
        return data

    def say(self, kind: int, *fields: Any) -> None:
        self.mqtt.publish(f"fl/3/{self.run}/u/{self.name}", msgpack.packb([VERSION, kind, *fields]), 1)

    def follow(self) -> str:
        """Take part until the run is finished; gives its reason."""
        self.mqtt.loop_start()
        while True:
            topic, data = self.events.get()
            if not topic:
                self.mqtt.publish(
                    f"fl/3/{self.run}/status/{self.name}", self.status(online=True), 1, retain=True
                )
                continue
            if data.startswith(b"\x97\x01\x00"):
                data = self.joined(data)
                if not data:
                    continue
            version, kind, *fields = msgpack.unpackb(data)
            if version != VERSION:
                return f"version {version}"
            ended = self.hear(kind, fields)
            if ended:
                last = self.mqtt.publish(
                    f"fl/3/{self.run}/status/{self.name}", self.status(online=False), 1, retain=True
                )
                last.wait_for_publish()
                self.mqtt.disconnect()
                self.mqtt.loop_stop()
                return ended

    def joined(self, data: bytes) -> bytes:
        _, _, transfer, index, count, crc32, part = msgpack.unpackb(data)
        parts = self.parts.setdefault(transfer, {})
        parts[index] = part
        if len(parts) < count:
            return b""
        whole = b"".join(parts[number] for number in range(count))
        del self.parts[transfer]
        assert zlib.crc32(whole) == crc32
        return whole

    def hear(self, kind: int, fields: list[Any]) -> str:  # noqa: C901  one case for each message
        if kind == RUN_STATE:
            return self.state(*fields)
        if kind == REJECTED:
            return f"rejected: {fields}" if fields[0] in ("scenario", "roster", "version") else ""
        if fields[0] < self.server:
            return ""
        if fields[0] > self.server:
            self.forget()
            self.server = fields[0]
            self.greet()
            return ""
        match kind:
            case 12:  # WELCOME
                self.welcome = fields
                self.initial = np.frombuffer(fields[7], "<f4").astype(np.float32)
            case 4:  # ASSIGNMENT
                self.assigned(*fields)
            case 6:  # GRADIENT
                self.gradient(*fields)
            case 9:  # ASK
                self.asked(*fields)
            case 11:  # RELEASED
                if fields[1] == self.round:
                    self.forget()
                if fields[2]:
                    self.greet()
        return ""

    def state(
        self, phase: str, server: int, _token: int = 0, _round: int = 0, _rounds: int = 0, reason: str = ""
    ) -> str:
        if phase == "away":
            self.greeted = False
            return ""
        if server < self.server:
            return ""
        if phase == "finished":
            return reason
        if server > self.server:
            self.forget()
            self.server, self.greeted = server, False
        if phase == "paused":
            self.greeted = False
        elif phase == "gathering" or not self.greeted:
            self.greet()
        return ""

    def forget(self) -> None:
        self.round = self.step = 0
        self.answer, self.refused = [], False

    def greet(self) -> None:
        self.greeted = True
        self.say(HELLO, self.session, "", SAMPLES, True)

    def assigned(
        self, _server: int, number: int, _attempt: int, steps: int, lr: float, codecs: list[Any], head: bytes
    ) -> None:
        if number <= self.round:
            return
        self.forget()
        self.round, self.steps, self.lr, self.codecs = number, steps, lr, codecs
        self.received = decode(codecs[3], head, 1, self.initial.size)[0]
        if codecs[3] != [FLOAT32]:
            self.received = self.received + self.initial
        self.head = self.received.copy()
        self.trained, self.energy, self.error = 0, 0.0, 0.0
        self.forward()

    def layers(self) -> tuple[Array, Array]:
        d = self.welcome[3]
        return self.head[: d * INPUTS].reshape(d, INPUTS), self.head[d * INPUTS :]

    def forward(self) -> None:
        rows = self.rng.choice(SAMPLES, min(self.welcome[1], SAMPLES), replace=False)
        weight, bias = self.layers()
        self.batch = self.inputs[rows]
        self.z: Array = np.maximum(self.batch @ weight.T + bias, 0)
        payload, arrives = encode(self.codecs[0], self.z, self.rng)
        self.lost: Array = self.z - arrives
        self.error += float((self.lost**2).sum())
        self.energy += float((self.z**2).sum())
        self.trained += len(rows)
        targets = packed(self.labels[rows], (self.welcome[4] - 1).bit_length())
        self.send(ACTIVATIONS, self.server, self.round, self.step, 1, len(rows), payload, targets)

    def gradient(
        self, _server: int, number: int, step: int, _attempt: int, correction: float, payload: bytes
    ) -> None:
        if number != self.round or step != self.step or not self.answer or self.answer[0] != ACTIVATIONS:
            return
        gradient = decode(self.codecs[1], payload, *self.z.shape) + np.float32(correction) * self.lost
        gradient = gradient * (self.z > 0)
        change = np.concatenate(((gradient.T @ self.batch).reshape(-1), gradient.sum(axis=0)))
        self.head = self.head - np.float32(self.lr) * change
        self.step = step + 1
        if self.step < self.steps:
            self.forward()
            return
        payload, _ = encode(self.codecs[2], (self.head - self.received)[None], self.rng)
        self.updates += 1
        relative = self.error / max(self.energy, 1e-30)
        self.send(UPDATE, self.server, self.round, 1, self.trained, relative, payload)

    def send(self, *answer: Any) -> None:
        self.answer = list(answer)
        self.say(*answer)

    def asked(self, server: int, question: int, number: int, step: int, resend: bool = False) -> None:
        missing = number > self.round or (number == self.round and step > self.step)
        if resend and not missing and self.answer and (number, step) == (self.round, self.step):
            self.answer[4 if self.answer[0] == ACTIVATIONS else 3] += 1  # the attempt
            self.say(*self.answer)
            return
        standing = ANSWERED if self.answer and not missing else MISSING
        self.say(PROGRESS, server, question, self.round, self.step, standing)


def main() -> None:
    host, port, run, name = sys.argv[1:]
    client = Client(host, int(port), run, name)
    reason = client.follow()
    ours = {"broker", "scenarios", "edge_client", "server_node", "sim", "torch"} & set(sys.modules)
    assert not ours, f"not from the page alone: {ours}"
    sys.stdout.write(f"{client.updates} {reason}\n")


if __name__ == "__main__":
    main()
