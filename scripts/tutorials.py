"""Carries out the tutorials of docs/tutorials and writes a notebook and a page of each from its one source.

`<name>.py` is the source, in jupytext's percent format. `<name>.ipynb` and `<name>.md` hold its cells with what an
execution gave, and the hash of the source that they are of:

    python scripts/tutorials.py            # those whose source has changed
    python scripts/tutorials.py engineer   # this one in any case

It needs `pip install 'peftbench[docs]'`. What tells whether a page is current needs nothing.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
SECONDS = 1200
"""The longest that one cell may take."""
COLUMNS = 110
"""How wide a terminal the commands of a tutorial print for."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def names() -> list[str]:
    """The tutorials there are."""
    return sorted(file.stem for file in FOLDER.glob("*.py"))


def hash_of(name: str) -> str:
    """sha256 of a tutorial's source, whatever its ends of lines."""
    return hashlib.sha256((FOLDER / f"{name}.py").read_text(encoding="utf-8").encode()).hexdigest()


def notebook(name: str) -> dict[str, Any]:
    """The notebook that is committed; empty where there is none."""
    file = FOLDER / f"{name}.ipynb"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def executed(name: str) -> dict[str, Any]:
    """The notebook of a tutorial, carried out in a folder of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails, or a command in one does.
    """
    import jupytext
    import nbclient

    content = jupytext.read(FOLDER / f"{name}.py")
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        place = Path(folder).resolve() / name
        place.mkdir()
        with _environment():
            nbclient.NotebookClient(
                content, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(place)}}
            ).execute()
        return _tidied(name, content, place)


class _environment:
    """Commands of the notebook find this peftbench, print for one width, and use no colours."""

    def __enter__(self) -> None:
        self.before = dict(os.environ)
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        os.environ |= {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "WANDB_MODE": "offline"}

    def __exit__(self, *problem: object) -> None:
        os.environ.clear()
        os.environ.update(self.before)


def rewritten(name: str) -> dict[str, Any]:
    """The committed notebook with the sentences of the source; empty where its code is another, and is to be run."""
    import jupytext

    content, cells = notebook(name), jupytext.read(FOLDER / f"{name}.py").cells
    code = {cell["source"]: cell["outputs"] for cell in content.get("cells", ()) if cell["cell_type"] == "code"}
    if list(code) != [cell.source for cell in cells if cell.cell_type == "code"]:
        return {}
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = code[cell.source]
    return _notebook(name, [_cell(name, number, cell, cell.get("outputs")) for number, cell in enumerate(cells)])


def _tidied(name: str, content: Any, place: Path) -> dict[str, Any]:
    """The notebook without what is of this machine alone: its folders, the times of cells, and its Python."""
    cells = []
    for number, cell in enumerate(content.cells):
        outputs = _joined(cell.outputs, place) if cell.cell_type == "code" else None
        if outputs:
            _refuse_failed(name, cell, outputs)
        cells.append(_cell(name, number, cell, outputs))
    return _notebook(name, cells)


def _cell(name: str, number: int, cell: Any, outputs: list[dict[str, Any]] | None) -> dict[str, Any]:
    kept: dict[str, Any] = {"cell_type": cell.cell_type, "id": f"{name}-{number}", "metadata": {}}
    if cell.cell_type == "code":
        kept |= {"execution_count": None, "outputs": outputs or []}
    return {**kept, "source": cell.source}


def _notebook(name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "peftbench": {"source": f"{name}.py", "sha256": hash_of(name)},
    }
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _refuse_failed(name: str, cell: Any, outputs: list[dict[str, Any]]) -> None:
    told = "".join(_text(output) for output in outputs)
    if "Traceback" in told or re.search(r"^(?:error|refused):|command not found", told, re.MULTILINE):
        sys.exit(f"{name}: a command failed.\n{cell.source}\n{told}")


def _joined(outputs: Any, place: Path) -> list[dict[str, Any]]:
    """What a cell gave: its text as one stream, and its value as text or PNG."""
    text, values = "", []
    for output in outputs:
        if (
            output.output_type == "stream"
        ):  # what a command says on either stream comes as stdout; a library warns on stderr
            text += output.text if output.name == "stdout" else ""
            continue
        data = {kind: output.data[kind] for kind in ("image/png", "text/plain") if kind in output.data}
        data = dict([next(iter(data.items()))])
        if "text/plain" in data:
            data["text/plain"] = _plain(data["text/plain"], place)
        else:
            data["image/png"] = _shrunk(data["image/png"])
        values.append({"output_type": "display_data", "metadata": {}, "data": data})
    text = _plain(text, place)
    return [*([{"output_type": "stream", "name": "stdout", "text": text}] if text.strip() else []), *values]


def _shrunk(png: str) -> str:
    """A picture of at most 128 colours."""
    from PIL import Image

    few = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(text: str, place: Path) -> str:
    """Text as it stands on a terminal once all is printed: no colours, and of a line that was overwritten the last."""
    text = _COLOURS.sub("", text.replace("\r\n", "\n")).replace(str(place), ".").replace(str(Path.home()), "~")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    lines = [line for line in lines if "━━━" not in line]  # a bar, which shows how far a command is while it works
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def _text(output: dict[str, Any]) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def page(name: str, content: dict[str, Any]) -> str:
    """The page of Markdown of a notebook: commands and Python in blocks, and below them what they gave."""
    source = content["metadata"]["peftbench"]["sha256"]
    parts = [f"<!-- made by scripts/tutorials.py from {name}.py {source} -->"]
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            if not number:
                parts.append(f"This page is a notebook too: [{name}.ipynb]({name}.ipynb).")
            continue
        parts += _blocks(cell["source"])
        for place, output in enumerate(cell["outputs"]):
            if "image/png" in output.get("data", {}):
                parts.append(f"![what the cell above shows]({picture(name, number, place)})")
            else:
                parts.append(f"```text\n{_text(output).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _blocks(source: str) -> list[str]:
    """A cell as blocks: lines that begin with `!` are commands, as they are typed in a terminal."""
    blocks: list[tuple[str, list[str]]] = []
    for line in source.splitlines():
        language = "bash" if line.startswith("!") else "python"
        if not blocks or blocks[-1][0] != language:
            blocks.append((language, []))
        blocks[-1][1].append(line.removeprefix("!"))
    return [f"```{language}\n" + "\n".join(lines).strip("\n") + "\n```" for language, lines in blocks if any(lines)]


def picture(name: str, cell: int, output: int) -> str:
    """The file of a picture that a cell gives."""
    return f"{name}-{cell}-{output}.png"


def pictures(name: str, content: dict[str, Any]) -> dict[str, bytes]:
    """The pictures that the page shows, by file."""
    return {
        picture(name, number, place): base64.b64decode(output["data"]["image/png"])
        for number, cell in enumerate(content["cells"])
        for place, output in enumerate(cell.get("outputs", ()))
        if "image/png" in output.get("data", {})
    }


def stale(name: str) -> str:
    """Why the notebook or the page of a tutorial is not current; empty where both are."""
    content = notebook(name)
    if not content or content["metadata"]["peftbench"]["sha256"] != hash_of(name):
        return f"docs/tutorials/{name}.ipynb is not of this {name}.py"
    shown = FOLDER / f"{name}.md"
    if not shown.is_file() or shown.read_text(encoding="utf-8") != page(name, content):
        return f"docs/tutorials/{name}.md is not the page of {name}.ipynb"
    if any(not (FOLDER / file).is_file() for file in pictures(name, content)):
        return f"docs/tutorials/{name}.md has lost a picture"
    return ""


def write(name: str, content: dict[str, Any]) -> None:
    """Writes the notebook, the page and its pictures."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (FOLDER / f"{name}.ipynb").write_text(text, encoding="utf-8")
    (FOLDER / f"{name}.md").write_text(page(name, content), encoding="utf-8")
    for file, png in pictures(name, content).items():
        (FOLDER / file).write_bytes(png)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*names(), []], help="those to carry out; else what is stale")
    asked = parser.parse_args().names
    for name in asked or [name for name in names() if stale(name)]:
        again = {} if asked else rewritten(name)
        print(f"{name}: {'its sentences alone are new' if again else 'is carried out'}", flush=True)
        write(name, again or executed(name))


if __name__ == "__main__":
    main()
