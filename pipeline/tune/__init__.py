"""Sweeps: search spaces, trials, and the searches over CFR settings and over training settings."""
