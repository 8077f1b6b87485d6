"""Data: COCO-format data sets named in the config, and the shapes data set of the quick start."""
