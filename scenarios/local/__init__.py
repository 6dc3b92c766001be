"""Data that devices have themselves (`partition: local`): readers for a task of one's own."""

from scenarios.local.csv_rows import read_csv
from scenarios.local.images import read_images
from scenarios.local.shares import read_share, write_share

__all__ = ["read_csv", "read_images", "read_share", "write_share"]
