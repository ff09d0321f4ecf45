"""Object detection: torchvision's detectors over the backbone's maps."""

from peftbench.tasks.detection.start import begin, file_of, save, settle, stamp
from peftbench.tasks.detection.task import Detection

__all__ = ["Detection", "begin", "file_of", "save", "settle", "stamp"]
