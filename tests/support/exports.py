"""What an exported file says of itself."""

import safetensors
import safetensors.torch


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()
