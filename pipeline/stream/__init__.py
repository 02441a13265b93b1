"""The training stream: seeded order, samples, and batches through Ray Data tasks."""
