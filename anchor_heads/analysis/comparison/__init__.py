"""Comparison of models on one data set: what their anchors are, and what comes of them.

- ``measure``: the numbers of one image and one model.
- ``store``: those numbers in a file from which an interrupted comparison resumes.
- ``run``: all images, in turn, with a progress bar.
- ``summary``: from the numbers of the images to those of the data set.
- ``tables``, ``pictures``, ``page``: what people read.

What each number means is said in ``definitions``.
"""
