"""Mosquitto with settings for this project, as a process."""

import asyncio
import os
import shutil
from pathlib import Path

from broker.errors import BrokerError
from broker.wire.chunks import MAX_PACKET_BYTES

_STOP_S = 5.0
_PLACES = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))
_HEADER_BYTES = 2**16 + 16  # the longest topic, and the rest of the header


def find_mosquitto() -> str:
    """Give the path of the mosquitto program.

    Raises:
        BrokerError: it is not installed; the text says how to install it.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_PLACES)
    if program is None:
        raise BrokerError(
            "mosquitto is not installed (Debian: apt install mosquitto, macOS: brew install mosquitto); "
            "or use the embedded broker"
        )
    return program


def mosquitto_config(host: str, port: int, folder: Path) -> str:
    """Give the text of a mosquitto.conf: no passwords; what the broker must remember is kept in `folder`."""
    lines = [
        f"listener {port} {host}",
        "allow_anonymous true",
        "set_tcp_nodelay true",  # without it every round trip takes 40 ms more
        f"max_packet_size {MAX_PACKET_BYTES + _HEADER_BYTES}",  # who sends more is disconnected
        "max_inflight_messages 100",
        "max_queued_messages 20000",  # above its default of 1000, mosquitto drops silently
        "max_queued_bytes 268435456",  # for each client
        "persistence true",
        f"persistence_location {folder.resolve()}/",
        "autosave_interval 30",
        "connection_messages false",
        "log_dest stderr",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines.append("user root")  # otherwise it changes to a user that cannot write to the folder
    return "\n".join(lines) + "\n"


async def serve_mosquitto(host: str, port: int, folder: Path, stop: asyncio.Event) -> None:
    """Run mosquitto until `stop` is set; its settings and its data go to `folder`.

    Raises:
        BrokerError: mosquitto is missing, or ended by itself and wrote the reason to standard error.
    """
    program = find_mosquitto()
    config = folder / "mosquitto.conf"
    config.write_text(mosquitto_config(host, port, folder))
    process = await asyncio.create_subprocess_exec(program, "-c", str(config))
    ended = asyncio.create_task(process.wait(), name="mosquitto")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=_STOP_S)
        if not ended.done():
            process.kill()
        await ended
    if ended.result() and not stop.is_set():
        raise BrokerError(f"mosquitto ended with code {ended.result()}")
