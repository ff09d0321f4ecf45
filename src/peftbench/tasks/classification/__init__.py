"""Classification of images and clips."""
