"""Classification with any number of labels for each image."""
