"""Codes of codewords that their neighbours foretell."""
