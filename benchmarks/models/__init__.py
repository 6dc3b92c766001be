"""Models with data, as a user would bring them; `benchmarks/cuts.py` cuts them."""
