"""What a live server shows of its run to whoever watches."""
