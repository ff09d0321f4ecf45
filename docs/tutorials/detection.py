# %% [markdown]
# # Detection with CST
#
# CST learns a small net beside a frozen backbone. You adapt a detector to new objects so: the backbone stays as it is, the
# side net and the detector's own layers learn.
#
# The images are canvases with handwritten digits over pieces of photographs, which peftbench draws from data that it has. The
# detector starts from a small Faster R-CNN that it ships.

# %% [markdown]
# ## What will train
#
# `plan` says it before a run. The head's count holds the pyramid, the region proposals and the box head.

# %%
# !peftbench plan method=cst backbone=resnet_nano data=digits_det

# %% [markdown]
# ## Train
#
# A hundred and fifty images are little: enough to see it work. The frozen backbone runs once for each image. What it gives is
# kept, and each of the eight epochs reads that.

# %%
# !peftbench method=cst backbone=resnet_nano data=digits_det data.images=[150,10,40] data.batch_size=4 task.weights=package:resnet_nano_fasterrcnn trainer.epochs=8

# %% [markdown]
# The figure that counts is AP, the mean precision over classes and over overlaps of 0.50 to 0.95. AP50 asks for half an overlap.

# %%
import json
from pathlib import Path

RUN = next(Path("outputs").glob("cst-*"))
record = json.loads((RUN / "result.json").read_text())
print(f"AP {record['metrics']['test/AP']:.3f}, AP50 {record['metrics']['test/AP50']:.3f}")
print(record["costs"]["parameters"]["method"], "parameters of CST,", record["costs"]["parameters"]["backbone"], "frozen")

# %% [markdown]
# The run has proof that the backbone did not move: the delta names each tensor that changed, and the backbone's are not there.

# %%
from safetensors import safe_open

with safe_open(RUN / "delta.safetensors", "np") as delta:
    names = list(delta.keys())
print(len(names), "tensors, such as", names[0])
print("of the backbone's own:", [name for name in names if name.startswith("backbone.net.")])

# %% [markdown]
# ## Look at it
#
# We draw five new canvases, and let the detector draw what it finds.

# %%
from PIL import Image

from peftbench.data.digits_det import DigitsDet

Path("new").mkdir()
for file in DigitsDet(images=(1, 1, 5), drawing_seed=7).load().test.images:
    Image.open(file).save(f"new/{file.stem}.png")

# %%
# !peftbench predict run=$RUN images=new score=0.7 draw=drawn out=found.csv
print(*Path("found.csv").read_text().splitlines()[:6], sep="\n")

# %%
sheet = Image.new("RGB", (5 * 200 + 40, 200), "white")
for number, file in enumerate(sorted(Path("drawn").iterdir())):
    sheet.paste(Image.open(file).resize((200, 200)), (210 * number, 0))
sheet

# %% [markdown]
# ## Further
#
# - [Detection](../detection.md): your own boxes, other detectors, masks, ONNX.
# - `method=full` trains everything: compare with `-m method=cst,full`, and read the costs beside the AP.
