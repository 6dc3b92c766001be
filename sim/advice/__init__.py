"""Measures codecs on a task's own first activations and gradients, and advises which to take."""
