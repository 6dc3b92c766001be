"""Puts a member of a fleet on its machine: user, files, systemd unit; and takes them away again."""
