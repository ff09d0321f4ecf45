"""Every file of a run, and every file of an entry of the tap cache, damaged; and the verbs that read them."""

from __future__ import annotations

import random
import shutil

from faults.damage import damage
from faults.verdicts import LOST, Verdict, contents, judged, told
from faults.world import METHODS, World

_READERS = ("predict", "predict", "layers", "report", "report page", "choose", "train", "train", "export", "evaluate")


def try_run(rng: random.Random, world: World) -> list[Verdict]:
    """One file of a run is damaged, and one verb reads it."""
    world.begin()
    method, verb = rng.choice(METHODS), rng.choice(_READERS)
    run = world.copied(method)
    words = _words(verb, method, run, world)
    key = f"{verb} {method}"
    usual = "" if verb == "train" else world.usual(key, words)
    if verb in ("export", "evaluate", "report page"):  # they left what they made
        shutil.rmtree(world.place / "out")
        run = world.copied(method)
        for made in world.place.glob("made*"):
            made.unlink()
    names = sorted(p.name for p in run.iterdir())
    name = rng.choice([*names, "result.json", "result.json", "config.yaml", "delta.safetensors"])
    what = f"{verb} {method}: {name}, {damage(rng, run / name)}"
    if name == "checkpoint.ckpt" and verb == "train":
        (run / "result.json").unlink()
    before = contents(world.place / "out")
    end = told(words)
    if verb == "train":
        verdict = judged(what, end, lambda _: world.same(method, run))
    else:  # a record says what it says: only other predictions are wrong ones
        exact = verb == "predict"
        verdict = judged(what, end, lambda e: not exact or e.out == usual)
    if name == "checkpoint.ckpt" and verb == "train":  # the run was not over, so that it writes its delta anew
        return [verdict]
    return [_unless_lost(verdict, before, world, verb)]


def _words(verb: str, method: str, run, world: World) -> list[object]:
    images = world.root / "pictures" / "test"
    return {
        "predict": ["predict", f"run={run}", f"images={images}", "device=cpu"],
        "layers": ["layers", world.copied("spt_lora") if method == "linear" else run],
        "report": ["report", run.parent],
        "report page": ["report", f"run={run}", "device=cpu"],
        "choose": ["choose", run.parent],
        "train": [*world.words(method), f"output_dir={run.parent}", f"taps.dir={world.root / 'taps'}"],
        "export": ["export", f"run={run}", "format=safetensors", f"out={world.place / 'made.safetensors'}"],
        "evaluate": ["evaluate", f"run={run}", "data=folder", f"data.root={world.root / 'pictures'}", "device=cpu"],
    }[verb]


def _unless_lost(verdict: Verdict, before: dict[str, str], world: World, verb: str) -> Verdict:
    """The verdict, or that something which was there is nowhere any more."""
    after = contents(world.place / "out")
    kept = set(after.values())
    rewritten = ("checkpoint.ckpt", "result.json", "page.html", "config.yaml") if verb == "train" else ()
    gone = [n for n, hash_ in before.items() if hash_ not in kept and not n.endswith(rewritten)]
    return Verdict(verdict.what, LOST, f"{gone[0]} is gone") if gone else verdict


def try_entry(rng: random.Random, world: World) -> list[Verdict]:
    """One file of an entry of the tap cache is damaged, and a run would read it."""
    place = world.begin()
    taps = place / "taps"
    shutil.copytree(world.root / "taps", taps)
    files = sorted(p for p in taps.rglob("*") if p.is_file() and p.stat().st_size)
    file = rng.choice(files)
    what = f"tap cache: {file.name.rpartition('.')[2] or file.name}, {damage(rng, file)}"
    if rng.random() < 0.25:
        end = told(["taps", rng.choice(("list", "clear")), f"taps.dir={taps}"])
        return [judged(f"taps: {what}", end)]
    end = told([*world.words("linear"), f"output_dir={place / 'out'}", f"taps.dir={taps}"])
    run = place / "out" / world.run("linear").name
    return [judged(what, end, lambda _: world.same("linear", run))]
