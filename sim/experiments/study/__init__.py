"""Runs a study, such as the FedLite paper's, and writes its tables and plots."""
