# %% [markdown]
# # A researcher's table
#
# You compare three methods on two backbones, with three seeds each, and want a table for a paper: means with intervals,
# what the differences are worth, and LaTeX. The two backbones come with peftbench and are small, so that this takes a
# minute. With others, such as `vit_b`, it is the same commands.

# %% [markdown]
# ## What will train
#
# `count_parameters` needs neither weights nor data.

# %%
import peftbench

for backbone in ("vit_nano", "resnet_nano"):
    for method in ("linear", "bitfit", "lora"):
        print(f"{backbone:12} {method:8} {peftbench.count_parameters(method, backbone):7,}")

# %% [markdown]
# ## Eighteen runs
#
# A list after a comma is swept over, and `-m` carries out each combination. A run that is there already is not repeated, so
# you can stop this and type it again. One epoch over small images is little training; leave the last two words out for a
# real table.

# %%
# !peftbench -m method=linear,bitfit,lora backbone=vit_nano,resnet_nano seed='range(3)' data=digits data.size=32 trainer.epochs=1

# %% [markdown]
# ## The report
#
# Each cell is the mean over seeds with half of its 95 % interval. Differences are paired by seed and corrected for their
# number. A mean over three seeds has a wide interval, and the report says so rather than name a winner.

# %%
# !peftbench report outputs

# %% [markdown]
# ## LaTeX
#
# The same tables, for `booktabs`. Bold is the best figure of a column, and a double dagger marks what cannot be told from it.

# %%
# !peftbench report outputs --format=latex --output=table.tex
print(open("table.tex").read())

# %% [markdown]
# ## Your own figures
#
# Each run has a record. `--format=csv` is one line for every method and task, unrounded.

# %%
import csv
import subprocess
import sys

words = [sys.executable, "-m", "peftbench", "report", "outputs", "--format=csv"]
lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
for row in csv.DictReader(lines):
    print(row["backbone"], row["method"], row["value"])

# %% [markdown]
# ## Before you publish
#
# - Choose learning rates by validation images, equally many trials for each method:
#   [protocols](../sweeps.md#the-vtab-1k-protocol).
# - Say which weights, split and versions you had. Each record has them: [the record](../record.md).
# - Read [how a report counts](../report.md).
