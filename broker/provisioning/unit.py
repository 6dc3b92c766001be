"""The systemd unit of a device, as it lies in its bundle."""

UNIT_FILE = "fedlite-edge.service"

_UNIT = """\
# sudo cp fedlite-edge.service /etc/systemd/system/ && sudo systemctl enable --now fedlite-edge
[Unit]
Description=fedlite edge {client} of fleet {fleet}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/opt/fedlite/bin/fedlite edge --bundle /etc/fedlite/{client}
Restart=on-failure
RestartSec=10
SuccessExitStatus=8 130
RestartPreventExitStatus=2 3 7

[Install]
WantedBy=multi-user.target
"""


def unit_text(fleet: str, client: str) -> str:
    """Give the text of the unit.

    Args:
        fleet: the fleet's name.
        client: the device's.
    """
    return _UNIT.format(fleet=fleet, client=client)
