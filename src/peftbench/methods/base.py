"""The method contract: what a method adds, what trains, how it is optimised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError

if TYPE_CHECKING:
    from peftbench.methods.shared.solving import Problem, Solution


@dataclass(frozen=True)
class Plan:
    """What a method decided after a look at the data; with the config it rebuilds every shape.

    Attributes:
        tensors: name -> tensor, kept in `plan.safetensors`.
        facts: what JSON holds, kept in `plan.json` and in the record; empty where nothing was decided.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A training of its own that comes before the method's, in the same run.

    Attributes:
        name: what it is called in the record, in messages and in the run's folder.
        method: a side method, which leaves the backbone as it is; where its head is solved there are no epochs.
        epochs: how many.
        lr: its learning rate, of AdamW.
    """

    name: str
    method: Method
    epochs: int = 1
    lr: float = 1e-3


class Branch:
    """What a method adds beside a layer: the layer gives base(x) + branch(x), and what is held gives base(x) + gain.

    `shared/branches.py` has those of low-rank updates, and of modules whose output is the branch.

    Attributes:
        name: of the layer in the net, which says how deep it lies.
        axis: of the channels in what the branch gives; its first axis is of images, or of parts of them in order.
    """

    name: str
    axis: int

    @abstractmethod
    def hold(self, gain: Callable[[Tensor], Tensor]) -> None:
        """From now on the layer gives base(x) + gain(branch(x))."""

    @abstractmethod
    def release(self) -> None:
        """Undoes `hold`."""


@dataclass(frozen=True)
class Method:
    """One way to adapt a backbone. Its fields are its options: plain types, literal defaults.

    The calls come in this order: `check` on a backbone of the meta device, before weights or data are touched;
    `first_phase`; `prepare` with the untouched model and training batches; `adapt`; `optimizer`; `finish`; `merge`.
    Of a method that `solves` they are `check`, `adapt`, `head`, `chooses`, `solve`.

    What a method does is declared by class attributes, which its callers ask: a class that overrides one of the hooks
    in `HOOKS` without declaring so is refused where it is defined, with a UserError. Where it depends on options, the
    attribute is a property.
    """

    side: ClassVar[bool] = False
    """A side method reads taps and never sends a gradient into the backbone."""
    pools: ClassVar[bool] = False
    """A side method whose net gives pooled features of its own (`Side.width`) instead of taps, which only tasks take
    that read pooled features alone."""
    phased: ClassVar[bool] = False
    """`first_phase` gives a training that comes first; what it learned of the task is where the method begins."""
    plans: ClassVar[bool] = False
    """`prepare` looks at the data and decides what trains; the plan is kept in the run's folder."""
    solves: ClassVar[bool] = False
    """A side method without parameters whose head `solve` works out from pooled features: no optimizer, no epochs."""
    solves_for: ClassVar[tuple[str, ...]] = ("classes",)
    """What such a head can predict: `classes`, `labels` or `numbers`, as `Task.solved_as` tells of a task."""
    accumulates: ClassVar[bool] = False
    """Such a head is a function of sums over images: with these kept, and no image, it goes on learning. So what it
    gives for images that come in groups (`protocol=continual`) is what it gives for all of them at once."""
    own_optimizer: ClassVar[bool] = False
    """`optimizer` gives another one than is configured."""
    finishes: ClassVar[bool] = False
    """`finish` changes the model after the last epoch."""
    anchored: ClassVar[bool] = False
    """`optimizer` or `finish` needs the values at the start, of whole tensors."""
    anchored_at: ClassVar[Literal["start", "pretrained"]] = "start"
    """Which values these are of a run that begins with what another learned (`start`): those that it begins with, or
    those that the backbone had before any of that."""
    foldable: ClassVar[bool] = False
    """`merge` folds what was added into the weights."""
    peft_adapters: ClassVar[bool] = False
    """Its delta of linear layers is an adapter of Hugging Face's PEFT (`shared/peft_adapters.py` writes it so)."""
    fixed_size: ClassVar[bool] = False
    """What it adds is built for one input size."""
    identity_start: ClassVar[bool] = False
    """The adapted backbone starts by computing what the untouched one does, to the bit: each run checks it."""
    keeps_weights: ClassVar[bool] = False
    """A weight method whose `adapt` leaves the weights of convolutions and linear layers frozen, so that they may be in
    few bits (`backbone.quantize`). It never replaces such a weight, and reads it as `F.linear` and `F.conv2d` do."""
    prefix: ClassVar[Literal["", "last", "all"]] = ""
    """A weight method that leaves what lies before the first layer that trains as it is, hooks on it apart: its blocks
    then run once and their taps are kept, as under a side method. `last`: the rest goes on from the last of them alone;
    `all`: what the method added reads every one, and the input of the first block. Where the rest begins is found by
    looking which taps have a gradient."""
    branched: ClassVar[bool] = False
    """`branches` gives what was added beside layers, which noise can scale (`trainer.consistency`)."""
    needs_consistency: ClassVar[bool] = False
    """Nothing but `trainer.consistency` tells it from the method that it derives from: without, it is refused."""
    of_pooling: ClassVar[str] = ""
    """A word of its options, such as `method.pool=all`, that acts on pooled features alone; "" where there is none."""
    counts_tokens: ClassVar[str] = ""
    """The option that says how many tokens are added to each image's, of which memory grows; "" where none are."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Name of a YAML -> option -> the value that this form is: with another the name is refused. A float stands for any
    number but the option's default. Read from source, so it is a literal."""
    merges: ClassVar[tuple[str, ...]] = ("masked",)
    """What can become of a pruned backbone's zeros, the default first: `unmerged` leaves updates beside the weights,
    `masked` keeps every zero, `dense` merges over them. Weights that train themselves always keep their zeros."""

    HOOKS: ClassVar[Mapping[str, str]] = {
        "first_phase": "phased",
        "prepare": "plans",
        "solve": "solves",
        "optimizer": "own_optimizer",
        "finish": "finishes",
        "merge": "foldable",
        "branches": "branched",
    }
    """Hook -> the attribute that says that a class overrides it."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuses a class that overrides a hook and does not say so."""
        super().__init_subclass__(**more)
        for hook, attribute in cls.HOOKS.items():
            if hook in cls.__dict__ and not getattr(cls, attribute):
                raise UserError(
                    f"{cls.__name__}: defines {hook}(), and nobody would call it; declare "
                    f"{attribute}: ClassVar[bool] = True in the class."
                )

    def check(self, backbone: Backbone) -> None:
        """Asks whether this backbone can be adapted so; it may be on the meta device.

        Raises:
            Refusal: it cannot, in one sentence that names what would work.
            UserError: an option that is out of range for it.
        """

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        """The layers that the options ask for and that are left alone, with the reason; on a backbone as built."""
        return {}

    def first_phase(self) -> Phase:
        """What is trained before `prepare`, for methods that are `phased` and no side methods.

        The phase has a model of its own: its side net is left behind, and the tensors of the task (the head, and all
        else of a detector that is not the backbone's) are where the method's own training begins.
        """
        raise UserError(f"{type(self).__name__} defines no first_phase().")

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        """Looks at the data before anything is changed; for methods with `plans`.

        Args:
            model: the untouched `Model`, in eval mode; `model.loss(batch)` is the training loss, a scalar.
            batches: of training data, on the model's device.
        """
        return Plan()

    def adapt(self, backbone: Backbone, plan: Plan) -> Side | None:
        """Makes the backbone what this method trains.

        A weight method edits the backbone in place, leaves `requires_grad` true on what trains, and returns None.
        A side method freezes the backbone and returns a `Side`.

        Raises:
            UserError: the plan is empty where the method decides by a look at the data what it trains.
        """
        raise UserError(f"{type(self).__name__} defines no adapt().")

    def head(self, linear: nn.Linear, images: int) -> nn.Module:
        """The head whose tensors `solve` gives, before they are known; also asked on the meta device.

        Args:
            linear: the task's own head, (width, outputs), which it is by default.
            images: how many are learned from, after those that are left out.

        Raises:
            UserError: an option does not go with so many images.
        """
        return linear

    def chooses(self, images: int) -> bool:
        """Whether `solve` has something to choose by held-out images, where so many are learned from."""
        return False

    def solve(self, problem: Problem) -> Solution:
        """Works the head out of features, and chooses among its own options by held-out images; where it `solves`.

        It needs at most 1 GB besides a chunk of features and what it returns, however many images there are.
        """
        raise UserError(f"{type(self).__name__} defines no solve().")

    def optimizer(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        anchors: Mapping[str, Tensor],
        inner: torch.optim.Optimizer,
    ) -> torch.optim.Optimizer:
        """The optimizer to train with: by default the configured one, unchanged.

        Args:
            named: (name, parameter) of everything that trains, head included.
            anchors: name -> value at the start, where the class is `anchored`; empty otherwise.
            inner: the configured optimizer over these parameters.

        Raises:
            UserError: an option that does not fit what trains.
        """
        return inner

    def rates(self, names: Sequence[str]) -> Mapping[str, float]:
        """Factors on the learning rate, by the name of a parameter; those that are not named have 1.

        The factors of `optimizer.layer_decay` and `optimizer.head_lr` come on top.

        Args:
            names: of everything that trains, as in `optimizer`.
        """
        return {}

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        """What `adapt` has added beside layers of this backbone; for methods that are `branched`.

        Raises:
            Refusal: something that was added is no branch of a layer that is called.
        """
        return ()

    def merge(self, backbone: Backbone) -> None:
        """Folds into the weights what can be, so that it costs nothing to predict; for methods that are `foldable`.

        The delta has been saved before. `backbone.merging` says what becomes of a pruned backbone's zeros.
        """

    def finish(self, model: nn.Module, anchors: Mapping[str, Tensor]) -> None:
        """Changes the model once, after the last epoch and before the test; for methods with `finishes`.

        Args:
            model: the trained `Model`.
            anchors: name -> value at the start, of what trains and of the statistics of norms.
        """


class Side(nn.Module):
    """A net over frozen taps, which it never sends a gradient into.

    Attributes:
        wanted: the taps it reads, as indices into `facts.taps`.
        condensed: names what `condense` keeps of them; the empty string where that is everything.
        given: the taps it gives back where the task reads them all, as indices into `facts.taps`.
        halves: whether it reads taps of half precision as they are; else they may come widened to fp32.
        every: whether the task reads them all, or the last alone; `Model` sets it.
        width: of a net that pools: how many features it gives for each image, in the place of taps; the task's head is
            built on them. None of a net that gives taps.
        draws: whether it draws random numbers in training. Runs of different seeds then train apart, and nets that
            compute together draw the same, as each would alone.
    """

    wanted: tuple[int, ...] = (-1,)
    condensed: str = ""
    given: tuple[int, ...] = (-1,)
    every: bool = False
    halves: bool = False
    width: int | None = None
    draws: bool = False

    def condense(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """What is kept of the wanted taps, without any parameter: a tap cache holds this, and `forward` takes it.

        Args:
            taps: the `wanted` ones, (B, N, C), (B, C, H, W) or (B, H, W, C) each, as the backbone lays them out.

        Raises:
            UserError: they are of another input size than the net was built for.
        """
        return list(taps)

    @abstractmethod
    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """From condensed taps to taps in the backbone's own layout, the last of which is pooled.

        They are `given`; where not `every` one is read, those before the last may be left out. Shapes are those of the
        backbone's taps. A net with a `width` gives one tensor instead, the pooled features (B, width).
        """

    @classmethod
    def forward_several(cls, nets: Sequence[Side], taps: Sequence[Tensor]) -> list[list[Tensor]]:
        """What each of several nets of this class gives for the same taps; a class that can share work overrides it."""
        return [net(taps) for net in nets]


def freeze(module: nn.Module) -> None:
    """No parameter of `module` trains."""
    for parameter in module.parameters():
        parameter.requires_grad = False


def unfreeze(module: nn.Module) -> None:
    """Every parameter of `module` trains."""
    for parameter in module.parameters():
        parameter.requires_grad = True
