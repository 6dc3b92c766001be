"""What a report tells of codecs that follow links."""
