"""Command lines: prepare, train, tune, evaluate, demo."""

from pipeline.stop import hear_early

hear_early()
