"""What the tries damage: pictures, finished runs, an entry of the tap cache; made once by peftbench itself."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from faults.damage import removed
from faults.verdicts import Told, told

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("linear", "spt_lora")


@dataclass
class World:
    """A folder with all that is tried upon; `place` is where one try works, empty when it begins."""

    root: Path
    expected: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, root: Path) -> World:
        """Makes it, or takes what an earlier process of the same campaign made."""
        world = cls(root)
        if not (root / "made").is_file():
            sys.path.insert(0, str(ROOT / "tests"))
            from support.finished_runs import pictures

            pictures(root / "pictures", train=8, test=3)
            for method in METHODS:
                end = told([*world.words(method), f"output_dir={root / 'runs'}", f"taps.dir={root / 'taps'}"], 300)
                assert end.status == 0, end
            (root / "made").touch()
        return world

    def words(self, method: str) -> list[str]:
        """Of a small run."""
        return [
            *(
                "backbone=resnet_nano",
                "backbone.pretrained=false",
                "data=folder",
                f"data.root={self.root / 'pictures'}",
            ),
            *("data.size=32", "data.val_fraction=0", "trainer.epochs=1", "data.batch_size=16", "logger=none"),
            *("trainer.progress=false", "trainer.accelerator=cpu", "taps=disk" if method == "linear" else "taps=off"),
            f"method={method}",
        ]

    @property
    def place(self) -> Path:
        """Where one try works."""
        return self.root / "try"

    def begin(self) -> Path:
        """The place of a try, empty."""
        removed(self.place)
        self.place.mkdir(parents=True)
        return self.place

    def run(self, method: str) -> Path:
        """The finished run of a method, as it was left."""
        (run,) = (self.root / "runs").glob(f"{method}-*")
        return run

    def copied(self, method: str) -> Path:
        """A copy of it in the place of a try, at the same path each time."""
        target = self.place / "out" / self.run(method).name
        shutil.copytree(self.run(method), target)
        return target

    def learned(self, folder: Path) -> dict[str, bytes] | None:
        """The tensors of a run's delta, None where there is none that can be read."""
        from peftbench.common.errors import UserError
        from peftbench.deltas import load_delta

        try:
            tensors, _ = load_delta(folder / "delta.safetensors")
        except UserError:
            return None
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

    def same(self, method: str, folder: Path) -> bool:
        """Whether a run learned what the one that nothing befell did, and is complete."""
        import json

        try:
            status = json.loads((folder / "result.json").read_text())["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return status == "complete" and self.learned(folder) == self.learned(self.run(method))

    def usual(self, key: str, words: list[object]) -> str:
        """What a command prints when nothing is damaged; asked before anything is."""
        if key not in self.expected:
            end: Told = told(words)
            assert end.status == 0, end
            self.expected[key] = end.out
        return self.expected[key]
