"""`peftbench data convert voc`: Pascal VOC's annotations in COCO's format."""

from __future__ import annotations

from pathlib import Path

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.common.amounts import plural
from peftbench.common.terminal import visible


def convert_annotations(words: Words) -> int:
    """Writes the JSON files and says how to train with them. Raises UserError."""
    from peftbench.data.voc import convert_voc

    classes = [name.strip() for name in (words["classes"] or "").split(",") if name.strip()]
    root, out = Path(words["root"]).expanduser(), Path(words["out"]).expanduser()
    done = convert_voc(root, out, classes, words["zero_based"], words["dropped"])
    for name, file in done.files.items():
        print(f"made   {file}: {plural(done.images[name], 'image')}, {plural(done.objects[name], 'object')}")
    more = ", …" if len(done.classes) > 20 else ""
    print(visible(f"{plural(len(done.classes), 'class')}: {', '.join(done.classes[:20])}{more}"))
    for note in done.notes:
        print(visible(f"note: {note}"))
    roles = {role: done.files[role].absolute() for role in ("train", "val", "test") if role in done.files}
    if "train" in roles:
        files = " ".join(f"data.{role}={file}" for role, file in roles.items())
        print(f"train with: data=coco_folder data.root={root} {files}{'' if 'val' in roles else ' data.val=null'}")
    return 0


COMMAND = Command(
    "data convert",
    "Pascal VOC's annotations as JSON that data=coco_folder reads",
    convert_annotations,
    (
        Argument("format", "what they are now", choices=("voc",), place=True, needed=True),
        Argument(
            "root", "the folder that holds Annotations/", kind="folder", placeholder="ROOT", place=True, needed=True
        ),
        Argument("out", "the folder of the JSON files", kind="folder", placeholder="DIR", needed=True),
        Argument("classes", "these alone, in this order", placeholder="a,b,c"),
        Argument("zero_based", "the first pixel is 0, not 1", kind="flag", default=False),
        Argument("dropped", "the share of boxes that may be empty and left out", kind="number", default=0.1),
    ),
    expected="voc and one folder",
    examples=("peftbench data convert voc VOCdevkit/VOC2007 out=DIR classes=dog,cat",),
)
