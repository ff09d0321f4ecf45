"""The page of a method: what it is, its equation, where it sits, what it trains and costs, when to take another."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import doc_tables
import yaml
from choosing import step_costs
from doc_tables import count, paper, plain, slug
from figure import figure

import peftbench
from peftbench.common.config_files import describe, names
from peftbench.config import CONFIGS
from peftbench.config.declared_fields import declared

reference = functools.cache(doc_tables.reference)
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods"
SECTIONS = ("Source", "Equation", "Place", "Cost", "Avoid when")
"""What the docstring of each method's class, or of a class that it extends, says of it."""
IDEA, READING = "Idea", "Our reading"
NO_READING = "nothing that we know of had to be read into the source."
"""What a page says where neither the class nor the YAML marks a reading of ours."""
SHOWN = ("Equation", "Place", "Cost", "Avoid when", READING, "Source")
BACKBONES = {
    "vit_b": "ViT-B/16",
    "vit_s": "ViT-S/16",
    "swin_b": "Swin-B",
    "convnext_b": "ConvNeXt-B",
    "resnet50": "ResNet-50",
    "hybrid_nano": "hybrid_nano",
}


def pages() -> dict[str, str]:
    """Every page and figure by its path below `docs/methods`."""
    made = {}
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = content.get("method", content)
        module, _, cls = kind["path"].rpartition(".")
        made |= page(name, path, getattr(importlib.import_module(module), cls), kind)
    return made


def page(name: str, yaml_file: Path, cls: Any, options: dict[str, Any]) -> dict[str, str]:
    """The page of one method, and its figure where it has one."""
    told = with_reading(sections(cls)) | with_reading(sections_of_yaml(yaml_file))
    source = paper(yaml_file, options["path"])
    about = f"{describe(yaml_file)}{f' ({source})' if source else ''}."
    lines = [f"# {name}", "", about, "", idea(name, told), ""]
    lines += [f"    peftbench method={name} backbone=vit_b data=vtab/cifar", ""]
    drawn = figure(name)
    if drawn is not None:
        lines += [f"![Where {name} sits](figures/{name}.svg)", ""]
    for section in SHOWN:
        lines += [f"**{section}:** {told.get(section, NO_READING)}".replace(":** \n", ":**\n"), ""]
    if measured := step_costs(name):
        lines += [f"**Measured:** {measured} ([benchmarks](../benchmarks.md)).", ""]
    lines += ["## Parameters", "", "The method's own, at its defaults; the head is counted apart.", ""]
    lines += ["| backbone | parameters |", "|---|--:|"]
    lines += [f"| {label} | {_count(name, backbone)} |" for backbone, label in BACKBONES.items()]
    fields = declared(options["path"], "path")
    if fields:
        chosen = {key: options.get(key, default) for key, (_, default) in fields.items()}
        lines += ["", "## Options", "", f"[What each means](../config.md#{keys_of(name)}).", ""]
        lines += [" ".join(f"`method.{key}={plain(value)}`" for key, value in chosen.items())]
    made = {f"{name}.md": "\n".join(lines).rstrip() + "\n"}
    if drawn is not None:
        made[f"figures/{name}.svg"] = drawn
    return made


def keys_of(name: str) -> str:
    """The anchor of the table of the method's keys on the page of all keys."""
    return next(slug(title) for title in reference() if title.startswith("method") and f"`method={name}`" in title)


def idea(name: str, told: dict[str, str]) -> str:
    """The idea in three sentences. Raises ValueError where the YAML has no line `# Idea: …` of three."""
    found = told.get(IDEA, "")
    if len(re.findall(r"[.?!](?= |$)", found)) != 3:
        raise ValueError(f"configs/method/{name}.yaml: a line '# {IDEA}: …' says the idea in three sentences.")
    return found


def with_reading(told: dict[str, str]) -> dict[str, str]:
    """The same, with what the source says of our reading as a section of its own."""
    source, mark, reading = told.get("Source", "").partition(f" {READING}: ")
    if mark:
        return told | {"Source": source, READING: reading}
    parts = re.split(r"(?<=\.) (?=[A-Z])", source)
    parts = parts if len(parts) > 1 else source.rstrip(".").split("; ")
    ours = [part for part in parts if "our reading" in part or "our form" in part]
    kept = [part for part in parts if part not in ours]
    if not ours or not kept:
        return told
    end = "" if kept[-1].endswith(".") else "."
    return told | {"Source": f"{' '.join(kept)}{end}", READING: f"{' '.join(ours).rstrip('.')}."}


def sections(cls: Any) -> dict[str, str]:
    """What the docstring of a class says under each of `SECTIONS`; what is not there a class that it extends says.

    Raises:
        ValueError: none of them says it.
    """
    told: dict[str, str] = {}
    for kind in cls.__mro__:
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        here: dict[str, list[str]] = {}
        last = ""
        for paragraph in re.split(rf"\n[ ]*\n|\n(?=(?:{'|'.join((*SECTIONS, READING))}):)", text):
            section, colon, words = paragraph.partition(":")
            if colon and section in (*SECTIONS, READING):
                last = section
                here[last] = [" ".join(words.split())]
            elif last and paragraph.startswith(
                ("    ", "- ") if last == READING else "    "
            ):  # a formula or list of it
                here[last].append(paragraph)
            else:
                last = ""
        for section, paragraphs in here.items():
            told.setdefault(section, "\n\n".join(paragraphs))
    if lacking := [section for section in SECTIONS if section not in told]:
        raise ValueError(f"{cls.__name__}: its docstring does not say {', '.join(lacking)}.")
    return told


def sections_of_yaml(file: Path) -> dict[str, str]:
    """What the YAML of a published name says in the place of its class, in lines `# Cost: …` at its head."""
    known = "|".join((*SECTIONS, IDEA, READING))
    lines = re.findall(rf"^# ({known}): (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(lines)


def _count(method: str, backbone: str) -> str:
    try:
        return count(method, backbone)
    except peftbench.Refusal as refusal:
        return f"refused: {str(refusal).partition(': ')[2]}".replace("|", "\\|")
