"""Command lines: prepare, train, evaluate, demo."""
