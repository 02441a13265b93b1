"""Command lines: prepare, train, tune, evaluate, demo."""

from pipeline.engine.stop import hear_early

hear_early()
