"""News from the workers: one that cannot be handled hides neither itself nor the later ones."""

from __future__ import annotations

from pipeline.train.launch import deliver
from pipeline.train.mailbox import Event


def test_a_failing_event_is_remembered_and_the_next_still_arrives() -> None:
    seen: list[int] = []

    def on_event(event: Event) -> None:
        if event.step == 1:
            raise OSError("no space left")
        seen.append(event.step)

    failures: list[Exception] = []
    deliver([Event("metrics", step, {}) for step in range(3)], on_event, failures)
    assert seen == [0, 2]
    assert [str(error) for error in failures] == ["no space left"]
