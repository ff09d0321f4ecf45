from typing import Literal

from pydantic.dataclasses import dataclass

from peftbench.config.task_schema import STRICT, TaskSchema, TaskSection
from peftbench.results.task_results import TaskResults


@dataclass(config=STRICT, frozen=True, kw_only=True)
class Ink(TaskSection):
    name: Literal["ink"]
    bias: bool = True


SCHEMA = TaskSchema(section=Ink, augmentations=("none", "flip"), check=lambda config: None)
RESULTS = TaskResults(metric="r2", columns={"R² %": "r2"})
