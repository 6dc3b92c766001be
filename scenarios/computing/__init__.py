"""How a model learns, step by step, and on which part of the machine."""
