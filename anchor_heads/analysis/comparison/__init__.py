"""Comparison of models on one data set: what their anchors are, and what comes of them.

- ``images``: the images and their objects.
- ``measure``: the numbers of one image and one model.
- ``store``: those numbers in a file that a comparison which was stopped goes on from.
- ``run``: all images, in turn, with a progress bar.
- ``summary``: from the numbers of the images to those of the data set.
- ``tables``, ``plots``, ``pictures``, ``page``: what people read.

What each number means is said once, in ``definitions``.
"""
