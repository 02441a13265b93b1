"""Sweeps: search spaces, trials, and the search over CFR settings."""
