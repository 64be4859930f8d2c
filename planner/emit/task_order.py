"""The order in which a pipeline's driver starts the tasks of a step: the schedule's, with carried state in its place.

In: a `PlanRecord` and its `PipelineCode`. Out: `Task`s.
"""

from planner.core.graph import Role
from planner.core.plan import PlanRecord
from planner.emit.pipeline_code import PipelineCode
from planner.errors import PlanMismatchError
from planner.schedules import Kind, Task, dispatch_order, predecessors, tasks_of


def task_order(record: PlanRecord, code: PipelineCode) -> tuple[Task, ...]:
    """Every task of a step in the order the driver starts them.

    Raises:
      PlanMismatchError: if the schedule does not fit the plan's stages, or waits for state for ever.
    """
    layout = record.layout
    makers = {v: s for (s, kind), task in code.tasks.items() if kind is Kind.FORWARD for v in task.makes}

    carried = [code.reads_on(stage, Role.STATE) for stage in range(layout.stages)]

    def needs(task: Task) -> list[Task]:
        found = list(predecessors(task, layout.stages))
        if task.phase is Kind.FORWARD and task.microbatch:
            found += [Task(makers[code.state_successor[v]], task.microbatch - 1, Kind.FORWARD)
                      for v in carried[task.stage]]
        return found

    try:
        return tuple(dispatch_order(tasks_of(record.schedule, layout, record.microbatches), needs))
    except ValueError as stuck:
        raise PlanMismatchError(f"schedule {record.schedule!r} cannot run this model: {stuck}", "plan again") from stuck
