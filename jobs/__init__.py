"""Command lines: a module for each job."""

from pipeline.engine.stop import hear_early

hear_early()
