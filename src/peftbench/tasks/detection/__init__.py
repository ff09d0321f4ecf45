"""Object detection: torchvision's detectors over the backbone's maps."""
