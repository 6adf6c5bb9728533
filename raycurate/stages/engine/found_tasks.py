"""What `ingest` says of the tasks that it found: where they are from, and what does not work without."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from raycurate.samples.tasks import UNKNOWN_TASK

MANY_TASKS, FEW_ROWS = 20, 5
log = logging.getLogger("raycurate")


def tell_tasks(tasks: Mapping[str, int], tasks_from: Mapping[str, int]) -> None:
    """Log where the tasks are from; warn where all rows are of the unknown one, or most tasks of hardly a row.

    Args:
        tasks: rows by task.
        tasks_from: rows by what said their task.
    """
    if set(tasks) == {UNKNOWN_TASK}:
        log.warning(
            "ingest: no row says its task, all are 'unknown': shares of tasks, stratified draws, `balance`, scores and "
            "reports by task have nothing to go by. Name the column (--set task_column=COLUMN) or rules (--task-map)"
        )
        return
    told = ", ".join(f"{count:,} rows by {name}" for name, count in sorted(tasks_from.items(), key=lambda i: -i[1]))
    log.info("ingest: tasks: %d (%s)", len(tasks), told)
    if len(tasks) > MANY_TASKS and sum(tasks.values()) < FEW_ROWS * len(tasks):
        log.warning(
            "ingest: %d tasks for %d rows, so few rows each that shares of tasks say little. Name another column "
            "(--set task_column=COLUMN)",
            len(tasks),
            sum(tasks.values()),
        )
