"""PETAH's update of the weight against HF peft's two branches, both in fp32."""

from __future__ import annotations

from dataclasses import dataclass

from bench.tables import Row
from bench.timing import interleaved_row


@dataclass(frozen=True)
class Case:
    """`targets` and `pattern` are the same layers, as peftbench and as HF peft name them."""

    name: str
    backbone: str
    targets: tuple[str, ...]
    pattern: str
    head: str
    limit: float

    @property
    def what(self) -> str:
        return f"training step, {self.name}, batch 8: PETAH, HF peft LoRA"


CASES = (
    Case("ViT-S/16, its linear layers", "vit_s", ("attn", "mlp"), "all-linear", "head", 1.15),
    Case(
        "ResNet-50, its convolutions",
        "resnet50",
        ("conv1x1", "convkxk", "downsample", "stem"),
        r".*conv\d|.*downsample\.0",
        "fc",
        1.0,
    ),
)


def names() -> list[str]:
    return [case.what for case in CASES]


def measure(quick: bool = False) -> list[Row]:
    import torch

    from bench.models import adapted_model, fused_adamw, hf_peft, plain_model, random_config, training_step

    peft = hf_peft("petah")
    images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(images), labels)

    rows = []
    for case in CASES:
        config = random_config(
            f"backbone={case.backbone}", "method=petah", f"method.targets=[{','.join(case.targets)}]"
        )
        ours = adapted_model(config)
        net = plain_model(config).backbone.net
        net.reset_classifier(10)
        options = peft.LoraConfig(
            r=8, lora_alpha=8, target_modules=case.pattern, exclude_modules=[case.head], modules_to_save=[case.head]
        )
        theirs = peft.get_peft_model(net, options)
        counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
        assert counts[0] == counts[1], counts
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as ours: frozen statistics
                module.train = lambda mode=True, m=module: m  # type: ignore[method-assign]
                module.training = False
        steps = [
            training_step(m.train(), fused_adamw([p for p in m.parameters() if p.requires_grad]), loss)
            for m in (ours, theirs)
        ]
        rows.append(interleaved_row(case.what, steps[0], steps[1], 1 if quick else 5, case.limit))
    return rows
