"""Progress on stderr: a bar with what is done, the time left and the current loss."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from quantize.cli import interrupt


class Bar:
    """One bar for each step; `update` is a Progress. A pipe gets a line when a step ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stages: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        """Show that `done` of `total` steps of a stage are over."""
        interrupt.check()
        if stage not in self.stages:
            self.stages[stage] = self.progress.add_task(stage, total=total, note=note)
        self.progress.update(self.stages[stage], completed=done, total=total, note=note)
        if done == total and not self.console.is_terminal:
            self.say(f"{stage}: {total}/{total} {note}")

    def say(self, line: str) -> None:
        """Print a sentence above the bars."""
        self.console.print(line, soft_wrap=True, markup=False)

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
