"""Command lines: prepare, train, tune, evaluate, demo."""
