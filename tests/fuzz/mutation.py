"""Valid inputs of the targets, and what a stranger might make of them."""

import random
from collections.abc import Callable

import msgpack
import numpy as np

from broker.codecs.coding.neighbour_coder import encode_codes
from broker.codecs.foretold.coder import encode_foretold
from broker.wire import packing, topics
from broker.wire.fields import CodecSpecs
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    Claim,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    RunScenario,
    RunState,
    Scores,
    Standing,
    Status,
    StopRun,
    Welcome,
)
from tests.fuzz.targets import (
    CODECS,
    KINDS,
    SUBVECTORS,
    TARGETS,
    codec,
    codec_name,
    entropy_coded,
    foretold,
    message,
    reassembly,
    targets,
    topic,
)

SPECS: CodecSpecs = (["coded_pq", 4, 3, 2], ["codeword_mean", 8], ["topk", 0.1], ["float16"])
MESSAGES: list[Message] = [
    Hello(300, "digest", 80, wants_welcome=True),
    Hello(300, "digest", 80, rows=bytes(9)),
    Status(online=False, session=5),
    RunState("running", 2, 9, 3, 300, "why"),
    Assignment(3, 7, 1, 1, 0.5, SPECS, bytes(40)),
    Activations(3, 7, 0, 1, 2, bytes(range(30)), b"\x21"),
    Gradient(3, 7, 0, 1, 0.5, bytes(20)),
    HeadUpdate(3, 7, 1, 20, 0.25, bytes(20)),
    HeadUpdate(3, 7, 1, 20, 0.25, bytes(20), ((12, bytes(30), bytes(3)), (8, bytes(20), bytes(2)))),
    Rejected("shape", "no"),
    Ask(3, 9, 7, 1, resend=True),
    Progress(3, 9, 7, 1, Standing.ANSWERED),
    Released(3, 7, greet=False),
    Welcome(3, 20, 1, 9216, 0, 0, 128_000, bytes(12), [["digit", "labels", 10, 1], ["", "tags", 2, 9]]),
    Claim(3, 7, takeover=True),
    StopRun("done"),
    RunScenario(b"\x78\x9c\x03\x00\x00\x00\x00\x01"),
    # An evaluation: a client that keeps 25 samples for it sends them in steps 2 and 3, and is asked to go on.
    Hello(300, "digest", 80, held_out=25),
    Assignment(3, 7, 1, 4, 0.5, SPECS, bytes(40), first_step=2),
    Assignment(3, 7, 1, 1, 0.5, SPECS, bytes(40), since=5),
    Activations(3, 7, 2, 1, 2, bytes(range(30)), b"\x21"),
    Gradient(3, 7, 2, 1, 0.0, b""),
    # A U-shape: no targets go up, features come down, and their gradient goes up.
    Assignment(3, 7, 1, 2, 0.5, SPECS, bytes(40), features=(["pq", 4, 1, 2], ["topk", 0.1])),
    Activations(3, 7, 0, 1, 2, bytes(range(30)), b""),
    Features(3, 7, 0, 1, bytes(range(12))),
    FeatureGradient(3, 7, 1, 1, 2, bytes(range(12)), 1.5),
    Scores(3, 7, 7, 1, 25, 20.0),
]
TOKENS = [
    *(bytes([byte]) for byte in (0x80, 0x90, 0x91, 0x9F, 0xA0, 0xC0, 0xC1, 0xC2, 0xC3, 0xFF)),
    b"\xdd\xff\xff\xff\xff",  # an array of four billion
    b"\xdf\xff\xff\xff\xff",  # a map of as many
    b"\xc6\xff\xff\xff\xff",  # four gigabytes
    b"\xdb\x7f\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xcb\x7f\xf8" + bytes(6),  # NaN
    b"\xcb\x7f\xf0" + bytes(6),  # infinity
    b"\x91" * 1000,  # nested
    b"\xc7\xff\x05" + bytes(255),
    b"\xd9\x01\xff",  # not UTF-8
    b"\x00\x7c",  # an infinite half
    b"\x64",  # an exponent of 100
]


def seeds() -> list[bytes]:
    """Give inputs of `any_target` that are valid throughout."""
    rng = np.random.default_rng(0)
    found: list[bytes] = []

    def add(target: Callable[[bytes], None], data: bytes) -> None:
        found.append(bytes([TARGETS.index(target)]) + data)

    for each in MESSAGES:
        add(message, packing.encode(each))
    for each in MESSAGES:
        if isinstance(each, Assignment):
            add(codec_name, packing.encode(each))
    for name in (topics.up("run", "c1"), topics.state("run"), topics.status("r", "x"), topics.server("r")):
        add(topic, name.encode())
    add(reassembly, bytes(index if place == 1 else 0 for index in range(12) for place in range(5)))
    for number, chosen in enumerate(CODECS):
        n, d = 3, 2 * SUBVECTORS
        payload = chosen.encode(rng.standard_normal((n, d)).astype(np.float32), rng)
        add(codec, bytes([number, n - 1, 1, 0]) + payload)
        add(codec, bytes([number, n - 1, 1, 1]) + chosen.encode(np.zeros((1, d), np.float32), rng))
    for bits, width in ((1, 1), (4, 12), (6, 9), (12, 200)):
        codes = np.minimum(rng.geometric(0.3, (4, 201)) - 1, (1 << bits) - 1).astype(np.uint16)
        choices = bytes([len(codes) - 1, codes.shape[1] // 4, bits, width - 1, 9])
        add(entropy_coded, choices + encode_codes(codes, 1 << bits, width, b"some seed"))
    for count, width, size in ((2, 1, 3), (16, 12, 2), (200, 7, 1)):
        shape = (4, 84)
        chosen_codes = np.minimum(rng.geometric(0.3, shape) - 1, count - 1).astype(np.uint8)
        codewords = np.random.default_rng(size).standard_normal((count, size)).astype(np.float32)
        choices = bytes(
            [shape[0] - 1, shape[1] - 2, width - 2 if width > 1 else shape[1] - 2, count - 2, size - 1]
        )
        add(foretold, choices + encode_foretold(chosen_codes, width, codewords))
    for number, kind in enumerate(KINDS):
        add(targets, bytes([number, 4, 0]) + kind.encode(kind.example(5, rng)))
    return found


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change an input in one to four ways: bits, bytes, lengths, msgpack tokens, parts of other inputs."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        match rng.randrange(8):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del changed[at : at + rng.randint(1, 8)]
            case 3:
                changed[at:at] = rng.choice(TOKENS)
            case 4 if changed:
                token = rng.choice(TOKENS)
                changed[at : at + len(token)] = token
            case 5:
                other = rng.choice(others)
                start = rng.randint(0, len(other))
                changed[at:at] = other[start : start + rng.randint(1, 64)]
            case 6:
                changed[at:at] = rng.randbytes(rng.randint(1, 32))
            case _:
                if len(changed) > 2 and changed[1] & 0xF0 == 0x90:
                    changed[1] = 0x90 | rng.randrange(16)
                packed = msgpack.packb(
                    rng.choice((None, -1, 2**31, 2**63, "x" * 70, [[[]]], {"a": 1}, 1e308))
                )
                changed[at:at] = packed
    return bytes(changed)
