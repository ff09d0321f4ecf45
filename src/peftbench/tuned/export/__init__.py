"""A tuned model as a file for elsewhere: a plain timm state dict, ONNX, an exported program, a PEFT adapter."""

from peftbench.tuned.export.files import FORMATS, export

__all__ = ["FORMATS", "export"]
