"""The class of each image, by a file of peftbench export format=onnx: python classify.py MODEL.onnx IMAGE …"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, *images = sys.argv[1:]
about = json.loads(Path(f"{model}.preprocess.json").read_text())
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def prepared(path):
    """The image as the model's input: what the file says that it does not do itself."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if about["resized"] == "inside":
        return np.asarray(image)[None]  # uint8 (1, height, width, 3)
    height, width = about["size"]
    resample = Image.Resampling[about["interpolation"].upper()]
    if about["resize"] == "crop":
        image = ImageOps.fit(image, (width, height), resample)
    elif about["resize"] == "pad":
        image = ImageOps.pad(image, (width, height), resample, color=tuple(about["pad"]))
    else:
        image = image.resize((width, height), resample)
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255


for path in images:
    (logits,) = session.run(about["outputs"], {about["input"]["name"]: prepared(path)})
    print(path, about["classes"][logits[0].argmax()], sep="\t")
