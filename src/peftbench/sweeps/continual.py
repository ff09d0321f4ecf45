"""`protocol=continual`: groups of classes, learned one after the other, over several seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config, Protocol, Sweep, replaced
from peftbench.config.validate import method_section
from peftbench.methods.base import Method
from peftbench.results import Record
from peftbench.runs.build import instantiate
from peftbench.sweeps.choosing import CarryOut, Point, carry_out_all, choice_of, points_of
from peftbench.sweeps.sequence import ClassSequence, Way


def carry_out_continual(config: Config, rule: Protocol, sweep: Sweep, carry_out: CarryOut) -> list[Record]:
    """Chooses a setting by the validation images of the first group, and learns all groups in it, with each seed.

    Each seed draws its own groups, where these are not named. Test images of no group choose anything.

    Returns the records of the sequences; of the trials where one was interrupted or all failed.

    Raises:
        UserError: no groups, a start, a group alone, or a grid that does not fit (`choosing.points_of`).
        Refusal: a method that cannot go on so.
    """
    method: Method = instantiate(config.method)
    _refuse_what_is_no_sequence(config)
    _refuse_method(config, rule, method)
    teller = _teller(config, rule)  # refused before anything is tried
    points: list[Point] = [{}]
    if sweep.grid or rule.trials > 1:
        points = points_of(config, rule, sweep.grid)
    chosen, about = points[0], _about(config, rule)
    if len(points) > 1:
        first = {"data.stage": "tune", "data.class_group": 1, "data.class_seed": _class_seed(config, config.seed)}
        trials = [replaced(config, {**point, **first, "data.replay": 0}) for point in points]
        records = carry_out_all(trials, sweep.together, carry_out)
        if len(records) < len(trials) or any(r.status == "interrupted" for r in records):
            return records
        choice = choice_of(config, rule, sweep.grid, points, records)
        if choice is None:
            return records
        chosen, about = choice["chosen"], {**about, **choice, "tuned_on": "the first group"}
    way = Way(rule.learn, method, rule.alone, teller)
    sequences = []
    for seed in range(config.seed, config.seed + rule.seeds):
        whole = replaced(config, {**chosen, "seed": seed, "data.class_seed": _class_seed(config, seed)})
        sequences.append(ClassSequence(dataclasses.replace(whole, protocol=about), way, carry_out).learn())
        if sequences[-1].status == "interrupted" or not sequences[-1].id:
            break
    return sequences


def _class_seed(config: Config, seed: int) -> int:
    """By which the groups of a sequence are drawn: as it is given, or that of the run."""
    return config.data.class_seed or seed


def _about(config: Config, rule: Protocol) -> dict[str, Any]:
    """What a record says of the protocol, besides how a setting was chosen."""
    teller = rule.told_by["name"] if rule.told_by and rule.learn == "apart" else None
    return {"name": rule.name, "trials": 1, "learn": rule.learn, "told_by": teller}


def _teller(config: Config, rule: Protocol) -> Config | None:
    """The config of the method that tells groups apart, where each has a net of its own."""
    if rule.learn != "apart" or rule.told_by is None:
        return None
    section = method_section(rule.told_by)
    teller = dataclasses.replace(config, method=section, choices={**config.choices, "method": section.name})
    method: Method = instantiate(section)
    if not method.solves or not method.accumulates:
        raise Refusal(
            f"method@protocol.told_by={section.name}: keeps no sums of what was seen before, so that it cannot tell "
            f"groups apart; take one that does (peftbench list methods: a head in closed form), or none: "
            f"protocol.told_by=null."
        )
    return teller


def _refuse_what_is_no_sequence(config: Config) -> None:
    data = config.data
    if data.class_groups is None:
        raise UserError(
            "protocol=continual: needs groups of classes; give data.class_groups=10, say, or name them: "
            "data.class_groups=[[cat,dog],[fox,owl]]."
        )
    for key, value in (("start", config.start), ("data.class_group", data.class_group)):
        if value is not None:
            raise UserError(f"{key}={value}: protocol=continual sets it for each group; leave it out.")
    if data.class_scope != "seen":
        raise UserError("data.class_scope=own: give protocol.learn=apart, in which each group has a head of its own.")
    if data.stage == "tune":
        raise UserError("data.stage=tune: tests nothing, and a sequence is judged by its tests; leave it out.")


def _refuse_method(config: Config, rule: Protocol, method: Method) -> None:
    name, replay = config.method.name, config.data.replay
    if rule.learn == "apart" and replay:
        raise UserError(
            f"data.replay={replay}: with protocol.learn=apart no group is learned from what came before; leave one of "
            f"them out."
        )
    if not method.solves:
        return
    if rule.learn == "apart":
        raise Refusal(
            f"protocol.learn=apart: method={name} trains nothing, so that no group has a net of its own; leave it out."
        )
    if method.accumulates and replay not in (0, "all"):
        raise UserError(
            f"data.replay={replay}: method={name} keeps sums over all images that it has seen, which say as much as "
            f"these do; leave it out."
        )
    if not method.accumulates and replay != "all":
        raise Refusal(
            f"method={name}: its head is worked out of all images at once, and a sequence does not keep those of the "
            f"groups before; give data.replay=all, which does, or a method that keeps sums of them (method=ridge, say, "
            f"or one that trains)."
        )
