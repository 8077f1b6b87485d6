"""Comparison of models on one data set: their anchors, and their results.

- ``measure``: the numbers of one image and one model.
- ``summary``: from the numbers of the images to those of the data set.
- ``run``: all images in turn; a stopped comparison continues.
- ``page``: what people read. ``page.html`` defines the numbers.
"""
