"""TCP on a link that loses packets: docs/models.md."""
