"""The server's half of the protocol, without clock, socket or thread."""
