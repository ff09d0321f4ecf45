# %% [markdown]
# # An engineer's afternoon: from photos to a used model
#
# You have a folder of photos, one folder for each class, and a laptop. You want a model that names new photos, and you
# want to know what it costs. This takes a few minutes.
#
# The photos here are ten classes of those that peftbench ships, ten photos of each to learn from. In place of them you
# can have your own in `photos/`.

# %%
import shutil
from pathlib import Path

import peftbench

SHIPPED = Path(peftbench.__file__).parent / "data" / "photos"
CLASSES = ["accordion", "bonsai", "butterfly", "car_side", "dalmatian"]
CLASSES += ["helicopter", "laptop", "lotus", "panda", "umbrella"]
for name in CLASSES:
    shutil.copytree(SHIPPED / "train" / name, f"photos/{name}")
    shutil.copytree(SHIPPED / "test" / name, f"new/{name}")
print(len(list(Path("photos").glob("*/*"))), "photos to learn from,", len(list(Path("new").glob("*/*"))), "new ones")

# %% [markdown]
# ## Look at the data first
#
# `data check` reads every image once. It finds what is damaged, what is there twice, and what lies in two splits. It also
# shows the split that runs will take: a tenth of each class to validate on and a fifth to test on.

# %%
# !peftbench data check data=folder data.root=photos

# %% [markdown]
# ## Train two methods
#
# `linear` trains the last layer alone, and `bitfit` the biases too. The backbone is an EfficientNet-Lite0 with ImageNet
# weights, which comes with peftbench. `-m` carries out one run for each method.

# %%
# !peftbench -m method=linear,bitfit backbone=efficientnet_lite0 data=folder data.root=photos data.size=96 trainer.epochs=4

# %% [markdown]
# ## Which one?
#
# `report` says what is highest, what is inside its noise, and what each costs.

# %%
# !peftbench report outputs

# %% [markdown]
# So few test images seldom tell two methods apart. `choose` then takes the cheapest of what is as good. Give it your limits,
# such as how many parameters may train.

# %%
# !peftbench choose outputs max_params=1M

# %% [markdown]
# You decide. Here we go on with the probe. A run's folder is called by its method, backbone, data and seed.

# %%
RUN = next(Path("outputs").glob("linear-*"))
print(sorted(file.name for file in RUN.iterdir()))

# %% [markdown]
# ## New labelled photos
#
# The hundred photos in `new/` were in no split. `evaluate` judges the finished run on them, with intervals and the figures
# of each class.

# %%
# !peftbench evaluate run=$RUN images=new

# %% [markdown]
# Compare this with the test figure above. Twenty images are a coarse measure, and a hundred a finer one; the interval says
# how fine. The classes with a low recall are those to take more photos of.
#
# ## New photos without labels

# %%
# !peftbench predict run=$RUN images=new/panda out=labels.csv top_k=2
print(*Path("labels.csv").read_text().splitlines()[:4], sep="\n")

# %% [markdown]
# The same from Python:

# %%
tuned = peftbench.load(RUN)
photo = min(Path("new/lotus").iterdir())
logits = tuned(tuned.transform(photo)[None])
print(tuned.classes[logits.argmax()])

# %% [markdown]
# ## Take it elsewhere
#
# `export` writes one file that needs no peftbench (`pip install 'peftbench[onnx]'`). Before the file takes its place it is
# run and compared with the model. It takes images in [0, 1] and normalises them inside.

# %%
# !peftbench export run=$RUN format=onnx out=model.onnx

# %%
import json

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
about = session.get_modelmeta().custom_metadata_map
size = json.loads(about["transform"])["size"]
pixels = np.asarray(Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
[scores] = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
print(json.loads(about["classes"])[scores.argmax()])

# %% [markdown]
# ## Serve it
#
# `serve` answers over HTTP (`pip install 'peftbench[serve]'`). You would type it in a terminal of its own and open the
# address that it prints in a browser: the page takes a photo and shows the answer. Here Python starts the server, asks it
# once, and ends it.

# %%
import base64
import subprocess
import urllib.request

server = subprocess.Popen(["peftbench", "serve", f"runs=[photos={RUN}]", "port=0"], stdout=subprocess.PIPE, text=True)
address = server.stdout.readline().split()[-1]
question = json.dumps({"images": [base64.b64encode(photo.read_bytes()).decode()]}).encode()
request = urllib.request.Request(f"{address}/v1/photos", question, {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    [said] = json.load(answer)["images"]
print(said["class"], f"{said['probability']:.0%}")
server.terminate()
print(server.communicate()[0].strip())

# %% [markdown]
# That is all: photos, two methods with their costs, a judged model, a file that runs without peftbench, and a server.
#
# - [Your own data](../data.md) in other forms: tables, COCO's files, masks.
# - [Methods](../methods.md): there are many more than two.
# - [How a report counts](../report.md), and [what else a finished run can do](../using.md).
