"""The systemd units of a device, of a server and, as a drop-in, of Mosquitto: which text, and why.

**When they start again.** A device is on its own for years, so it starts again after everything but what
only a person can mend: a mistake in its files (exit code 2), or a broker that does not let it in (3). A
server that is done (0, 8), was replaced (5, 6) or came to numbers that are not finite (7) stays down. After
a crash (1) and without a broker (4) it goes on from its checkpoint. 130, the answer to SIGTERM, is no
failure. There is a pause before each start, and no number of starts after which systemd gives up.

**What they may do.** Nothing but compute, read their bundle, write below /var/lib and speak TCP. Two settings
are left out on purpose: MemoryDenyWriteExecute, since torch makes machine code for matrix products, and
ProcSubset=pid, since torch asks /proc/cpuinfo what the processor can do.
"""

import re

from broker.errors import RunError
from broker.exits import Exit

UNIT_FILE, SERVER_UNIT_FILE = "fedlite-edge.service", "fedlite-server.service"
DROP_IN = "mosquitto.service.d/fedlite.conf"
MOSQUITTO_FILES = "/etc/mosquitto/fedlite"
EDGE_USER, SERVER_USER = "fedlite-edge", "fedlite-server"
PROGRAM = "/opt/fedlite/bin/fedlite"
EDGE_BUNDLE, SERVER_BUNDLE = "/etc/fedlite/edge", "/etc/fedlite/server"

START_S, WATCHDOG_S, PAUSE_S = 300, 300, 15
"""Seconds: until torch is loaded from a slow card; without a sign of life; before the next start."""

NEEDS_A_PERSON = (Exit.CONFIGURATION, Exit.AUTHENTICATION)
SERVER_IS_DONE = (*NEEDS_A_PERSON, Exit.SUPERSEDED, Exit.ANOTHER_SERVER, Exit.DIVERGED)

_PLAIN = re.compile(r"[A-Za-z0-9_./@+=:,-]+")

_HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""

_UNIT = """\
# Written by fedlite. To change something: systemctl edit {name}
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
User={user}
Environment=HOME=/var/lib/{user} XDG_CACHE_HOME=/var/cache/{user}
WorkingDirectory=/var/lib/{user}
StateDirectory={user}
StateDirectoryMode=0700
CacheDirectory={user}
CacheDirectoryMode=0700
Restart={restart}
RestartSec={pause}
SuccessExitStatus={success}
RestartPreventExitStatus={prevent}
TimeoutStartSec={start}
TimeoutStopSec=60
WatchdogSec={watchdog}
MemoryMax={memory}
{hardening}
[Install]
WantedBy=multi-user.target
"""

_DROP_IN = f"""\
# Written by fedlite, for the unit that Debian's mosquitto brings
[Unit]
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=
ExecStart=/usr/sbin/mosquitto -c {MOSQUITTO_FILES}/mosquitto.conf
Restart=always
RestartSec=5
LimitNOFILE=65536
MemoryMax=80%
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
"""


def unit_text(
    fleet: str, client: str, *, program: str = PROGRAM, bundle: str = EDGE_BUNDLE, home: bool = False
) -> str:
    """Give the text of a device's unit.

    Args:
        fleet: the fleet's name.
        client: the device's.
        program: path of the command fedlite.
        bundle: path of the device's bundle.
        home: whether the program or the device's data lie in a home folder, which it must then see.

    Raises:
        RunError: a name or path that would mean something else in a unit.
    """
    return _UNIT.format(
        name=UNIT_FILE,
        description=f"FedLite edge {_plain(client)} of fleet {_plain(fleet)}",
        command=_command(program, "edge", "--bundle", bundle, "--stay"),
        user=EDGE_USER,
        restart="always",
        success=_codes(Exit.STOPPED),
        prevent=_codes(*NEEDS_A_PERSON),
        pause=PAUSE_S,
        start=START_S,
        watchdog=WATCHDOG_S,
        memory="80%",
        hardening=_HARDENING.format(home="read-only" if home else "yes"),
    )


def server_unit(
    run: str,
    scenario: str = f"{SERVER_BUNDLE}/scenario.yaml",
    *,
    program: str = PROGRAM,
    bundle: str = SERVER_BUNDLE,
    home: bool = False,
) -> str:
    """Give the text of a server's unit.

    Args:
        run: name of the run.
        scenario: path of the scenario's file, or the name of a shipped one.
        program: path of the command fedlite.
        bundle: path of the server's bundle.
        home: see unit_text.

    Raises:
        RunError: see unit_text.
    """
    return _UNIT.format(
        name=SERVER_UNIT_FILE,
        description=f"FedLite server of run {_plain(run)}",
        command=_command(program, "server", scenario, "--bundle", bundle, "--run", run),
        user=SERVER_USER,
        restart="on-failure",
        success=_codes(Exit.ENDED, Exit.STOPPED),
        prevent=_codes(*SERVER_IS_DONE),
        pause=PAUSE_S,
        start=START_S,
        watchdog=WATCHDOG_S,
        memory="90%",
        hardening=_HARDENING.format(home="read-only" if home else "yes"),
    )


def mosquitto_drop_in() -> str:
    """Give what is added to the unit of Debian's Mosquitto, which begins as root and changes its user."""
    return _DROP_IN


def restarts(unit: str, code: int) -> bool:
    """Tell whether systemd starts a service again that has ended with an exit code (systemd.service(5)).

    Args:
        unit: text of the unit.
        code: of the process.
    """
    told = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    if str(code) in told.get("RestartPreventExitStatus", "").split():
        return False
    clean = code == 0 or str(code) in told.get("SuccessExitStatus", "").split()
    return told["Restart"] == "always" or (told["Restart"] == "on-failure" and not clean)


def _codes(*exits: Exit) -> str:
    return " ".join(str(int(code)) for code in exits)


def _command(*words: str) -> str:
    return " ".join(map(_plain, words))


def _plain(word: str) -> str:
    """Give a word if it means in a unit what it says: no quotation, specifier, variable, or other line."""
    if not _PLAIN.fullmatch(word):
        raise RunError(f"{word!r} cannot stand in a systemd unit: use letters, digits and any of _./@+=:,-")
    return word
