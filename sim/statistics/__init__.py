"""Runs that differ in nothing but the seed are replicates: means, intervals, paired differences."""
