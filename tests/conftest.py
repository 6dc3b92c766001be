"""What tests in several folders share: brokers in memory, embedded (amqtt) and mosquitto, and a browser."""

import functools
import importlib.util
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from broker.errors import BrokerError
from broker.servers.mosquitto import find_mosquitto
from broker.servers.spawn import local_broker
from broker.transports.base import Connect
from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport

_numbers = itertools.count()
BROWSER_FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
)

settings.register_profile("no clock", deadline=None)  # on a busy machine an example may take its time
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def mosquitto_program() -> str:
    """Path of mosquitto; skips where there is none."""
    try:
        return find_mosquitto()
    except BrokerError as error:
        pytest.skip(f"NOT TESTED WITH A REAL BROKER: {error}")


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an embedded broker shared by all tests."""
    with local_broker("embedded", tmp_path_factory.mktemp("embedded")) as url:
        yield url


@pytest.fixture(scope="session")
def mosquitto_url(mosquitto_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a mosquitto shared by all tests."""
    assert mosquitto_program
    with local_broker("mosquitto", tmp_path_factory.mktemp("mosquitto")) as url:
        yield url


@pytest.fixture(params=["embedded", "mosquitto"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """URL of each kind of local broker in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["memory", "embedded", "mosquitto"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Make transports to each kind of broker in turn."""
    if request.param == "memory":
        return MemoryBroker().transport
    return functools.partial(MqttTransport, request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def run_name() -> str:
    """Name of a run that no other test uses, for topics and client ids."""
    return f"run{next(_numbers)}"


@pytest.fixture
def broker_folder(tmp_path: Path) -> Path:
    """Folder for a broker that one test starts for itself."""
    return tmp_path / "broker"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder that stands for the user's cache of data sets."""
    monkeypatch.setenv("FEDLITE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a driver of Chromium; skips where there is none."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None or importlib.util.find_spec("selenium") is None:
        pytest.skip("NOT TESTED IN A BROWSER: chromium, chromedriver and selenium are needed")
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*BROWSER_FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(driver)
    made = webdriver.Chrome(options=options, service=service)
    try:
        yield made
    finally:
        made.quit()
        service.stop()
