"""`peftbench --help`."""

from __future__ import annotations

from peftbench.config.groups import names, roots

_TEXT = """\
peftbench {version}: fine-tune any pretrained vision backbone with any adaptation method, and see what it cost.

  peftbench method=… backbone=… data=… [trainer=… optimizer=… logger=… experiment=… debug=…] [key=value …]
  peftbench list methods|backbones|data       one line each
  peftbench plan method=… backbone=… data=…   what a run would train, layer by layer, and what a step would take
  peftbench predict run=FOLDER images=FILE|FOLDER|GLOB [out=FILE.csv|.json]
  peftbench export run=FOLDER format=safetensors|onnx|torch_export|peft [out=…]
  peftbench share FOLDER …                    storage and memory of several runs on one backbone
  peftbench data prepare|check|sources        the tasks of VTAB-1k on disk: made, checked, where they come from
  peftbench data convert voc ROOT out=DIR     Pascal VOC's annotations as JSON that data=coco_folder reads
  peftbench taps list|clear                   kept taps of frozen backbones (taps=auto|disk|memory|off)
  peftbench layers RUN_FOLDER                 where an SPT run's budget went
  peftbench report [FOLDER …] [--format=html]  what all records say together; markdown, csv, latex
  peftbench choose [FOLDER …] max_memory=2GB max_minutes=10 max_params=0.4M    which method, within a budget

methods    {methods}
backbones  {backbones}
data       {data}
trainers   {trainers}

examples
  peftbench method=lora backbone=vit_nano data=digits
  peftbench method=full backbone=efficientnet_lite0 data=folder data.root=~/photos trainer.epochs=10
  peftbench -m method=full,linear,bitfit seed='range(3)' 'data=glob(vtab/*)'

  -m                     every combination of comma-separated values, in one table
  sweep.together=8       with -m: up to eight runs of a side method in one pass
  sweep.retry=true       with -m: run again what failed, too
  hydra/launcher=joblib  with -m: several at a time; submitit_slurm, ray; hydra/sweeper=optuna searches
  protocol=vtab1k        with -m: tune on validation images, test once (experiment=vtab1k method=…)
  --cfg job              print the composed config instead of running (-p data: one part; --resolve)
  --config-dir DIR       your own YAML files beside peftbench's; so does hydra.searchpath=[file:///…]
  -sc install=bash       shell completion: eval "$(peftbench -sc install=bash)"
  --hydra-help           what else Hydra offers
"""


def show(arguments: list[str]) -> int:
    """Prints the help."""
    from peftbench import __version__

    folders = roots(arguments)

    def wrapped(group: str) -> str:
        known = list(names(group, folders))
        plain = [n for n in known if "/" not in n]
        nested: dict[str, int] = {}
        for name in known:
            if "/" in name:
                nested[name.split("/")[0]] = nested.get(name.split("/")[0], 0) + 1
        words = plain + [f"{family}/<{count} tasks>" for family, count in nested.items()]
        return _fill(words)

    print(
        _TEXT.format(
            version=__version__,
            methods=wrapped("method"),
            backbones=wrapped("backbone"),
            data=wrapped("data"),
            trainers=wrapped("trainer"),
        ),
        end="",
    )
    return 0


def _fill(words: list[str], width: int = 100, indent: int = 11) -> str:
    lines, line = [], ""
    for word in words:
        if line and indent + len(line) + len(word) > width:
            lines.append(line.rstrip())
            line = ""
        line += word + "  "
    return ("\n" + " " * indent).join([*lines, line.rstrip()])
