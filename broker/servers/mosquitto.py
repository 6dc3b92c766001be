"""Mosquitto with settings for this project, as a process."""

import asyncio
import os
import shutil
from pathlib import Path

from broker.errors import BrokerError
from broker.provisioning.configuration import PASSWORDS, fleet_config, running_as, settings

_STOP_S = 5.0
_PLACES = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))


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
    """Give the text of a mosquitto.conf: it lets everybody in; what it must remember is kept in `folder`."""
    lines = [f"listener {port} {host}", "allow_anonymous true", *settings(folder.resolve()), *running_as()]
    return "\n".join(lines) + "\n"


def _config(host: str, port: int, folder: Path, files: Path | None) -> str:
    if files is None:
        return mosquitto_config(host, port, folder)
    by_password = (files / PASSWORDS).is_file()
    text = fleet_config(files.resolve(), folder.resolve(), port=port, host=host, passwords=by_password)
    return "".join([text, *(f"{line}\n" for line in running_as())])


async def serve_mosquitto(
    host: str, port: int, folder: Path, stop: asyncio.Event, files: Path | None = None
) -> None:
    """Run mosquitto until `stop` is set.

    Args:
        host: address to listen on.
        port: TCP port.
        folder: for its settings and its data.
        stop: ends it.
        files: of a fleet's broker; None: it lets everybody in.

    Raises:
        BrokerError: mosquitto is missing, or ended by itself and wrote the reason to standard error.
    """
    program = find_mosquitto()
    config = folder / "mosquitto.conf"
    config.write_text(_config(host, port, folder, files))
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
