"""The progress of training: one bar for the whole of it, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import Progress

from peftbench.common.progress import bar
from peftbench.common.stopping import UNREAD, silence_output
from peftbench.results.task_results import percent, results_of_task


class Bar(Callback):
    """Steps of the whole run on a terminal; a line an epoch where the output goes to a file.

    `lost` is told why when nobody reads the output any more (`| head`); nothing is raised.
    """

    def __init__(self, lost: Callable[[str], None]) -> None:
        self.console = _Watched(lost)
        self.progress: Progress | None = None
        self.text = "training"

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        self.console.quiet = not trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if self.console.is_terminal and not self.console.quiet:
            self.progress = bar(self.console)
            total = trainer.max_epochs * trainer.num_training_batches  # type: ignore[operator]
            epoch, batch = module.place
            self.task = self.progress.add_task(
                self.text, total=total, completed=epoch * trainer.num_training_batches + batch
            )
            self.progress.start()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.progress:
            self.progress.advance(self.task)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        row = module.history[-1]
        self.text = f"epoch {row['epoch']}/{trainer.max_epochs} loss {row['train_loss']:.3f}"
        task = module.config.task
        metric = results_of_task(task.name, task.path).metric
        if f"val_{metric}" in row:
            self.text += f" val {100 * row[f'val_{metric}']:.1f} {percent(metric)}"
        if self.progress:
            self.progress.update(self.task, description=self.text)
        else:
            self.console.print(self.text, highlight=False)

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, module: Any, exception: BaseException) -> None:
        self._close()

    def on_test_start(self, trainer: Trainer, module: Any) -> None:
        if self.console.is_terminal and not self.console.quiet:
            self.progress = bar(self.console)
            self.task = self.progress.add_task("testing", total=trainer.num_test_batches[0])
            self.progress.start()

    def on_test_batch_end(self, *_: Any) -> None:
        if self.progress:
            self.progress.advance(self.task)

    def on_test_end(self, trainer: Trainer, module: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


class _Watched(Console):
    """A console that tells of a broken pipe, where rich's own would end the process in the midst of a step."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        super().__init__()
        self._lost = lost

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence_output()
        self._lost(UNREAD)
