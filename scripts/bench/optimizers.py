"""Steps under FTP against plain AdamW and against TPGM, and FTP's memory; random weights and images."""

from __future__ import annotations

from bench.tables import Row
from bench.timing import interleaved_row

VIT, LINEARS = "ViT-S/16, batch 16", "12 linear layers of 1024, batch 16"
PEERS = {"AdamW": None, "fused AdamW": True}  # torch's default, and the fused one alone
LIMITS = {VIT: {"AdamW": 1.10, "fused AdamW": 1.10}, LINEARS: {"AdamW": 1.30, "fused AdamW": 1.90}}
"""Of each network against each peer. On linear layers alone the weights' way through memory is all that counts: by the
bytes that FTP reads and writes its step is 1.6 of one that is fused."""
AGAINST_TPGM = "training step, ViT-S/16, batch 16: FTP, TPGM"
MEMORY = "memory of FTP, in sizes of the model"


def _against_adamw(network: str, peer: str) -> str:
    return f"training step, {network}: FTP around fused AdamW, plain {peer}"


def names() -> list[str]:
    return [*(_against_adamw(network, peer) for network in LIMITS for peer in PEERS), AGAINST_TPGM, MEMORY]


def measure(quick: bool = False) -> list[Row]:
    """FTP wraps fused AdamW, as peftbench runs it."""
    import timm
    import torch

    from bench.models import training_step
    from peftbench.optim import FTP, TPGM

    rounds = {VIT: 1 if quick else 7, LINEARS: 1 if quick else 15}
    inputs = {VIT: torch.randn(16, 3, 224, 224), LINEARS: torch.randn(16, 1024)}

    def network_of(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        if name == VIT:
            return timm.create_model("vit_small_patch16_224", num_classes=10)
        return torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(12)))

    rows = []
    for name, limits in LIMITS.items():
        for peer, fused in PEERS.items():
            models = network_of(name), network_of(name)

            def loss(model: torch.nn.Module, name: str = name) -> torch.Tensor:
                return model(inputs[name]).square().mean()

            ftp = FTP(torch.optim.AdamW(models[0].named_parameters(), lr=1e-4, fused=True))
            plain = torch.optim.AdamW(models[1].named_parameters(), lr=1e-4, fused=fused)
            steps = training_step(models[0], ftp, loss), training_step(models[1], plain, loss)
            rows.append(interleaved_row(_against_adamw(name, peer), *steps, rounds[name], limits[peer]))

    models = network_of(VIT), network_of(VIT)
    ftp = FTP(torch.optim.AdamW(models[0].named_parameters(), fused=True))
    tpgm = TPGM(torch.optim.AdamW(models[1].named_parameters(), fused=True))
    tpgm.objective = lambda: models[1](inputs[VIT]).square().mean()

    def loss_of_images(model: torch.nn.Module) -> torch.Tensor:
        return model(inputs[VIT]).square().mean()

    steps = training_step(models[0], ftp, loss_of_images), training_step(models[1], tpgm, loss_of_images)
    rows.append(interleaved_row(AGAINST_TPGM, *steps, rounds[VIT], 0.75))
    held = sum(t.numel() for state in ftp.own_state() for t in state.values()) + sum(a.numel() for a in ftp.anchors)
    share = held / sum(p.numel() for p in models[0].parameters())
    rows.append(Row(MEMORY, f"{share:.3f}", limit="2.01", kept=share <= 2.01))
    return rows
