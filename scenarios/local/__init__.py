"""Readers for the data of a task of one's own: those that devices have, and those of Hugging Face."""

from scenarios.local.csv_rows import read_csv
from scenarios.local.hugging_face import pretrained, read_dataset
from scenarios.local.images import read_images
from scenarios.local.shares import read_share, write_share

__all__ = ["pretrained", "read_csv", "read_dataset", "read_images", "read_share", "write_share"]
