"""Time and memory of models beside those of others, and of their parts.

- ``workload``: what the models do: find something in one image, or learn from one.
- ``locations``: location maps given to models that predict where anchors are wanted.
- ``parts``: running a model while its parts are told apart.
- ``memory``: the most memory that a run and its parts need, in a process of their own.
- ``compare``: models in turn, and the ratios between them.
- ``report``: what the numbers depend on, and their table.
- ``readme_tables``: that table in Markdown files.

The parts of a model, which together are all of it:

- backbone, with FPN;
- head: of a model that predicts where anchors are wanted, that is its guide (towers, location and
  shape) and judging the anchors. When detecting, it judges those that are wanted; what judging all
  of them would take is measured beside it. Of another head with deformable convolutions these are
  told apart when detecting, with the offsets that some of them predict;
- assignment and loss, in training;
- post-processing: from the head's predictions to detections or proposals, that is decoding,
  thresholds and NMS;
- ROI heads, in training with their losses;
- other: normalising and padding the image, resizing what was found.

In training a part is its forward and its backward pass, the latter also by itself. There is no
step of the optimizer.

The image is noise, its objects are anywhere. Weights are random unless the config names some; the
input is then scaled until the features of the first level have the deviation ``FEATURE_SCALE``.
(Those of a random R-50 have one in the thousands, and almost half of RetinaNet's scores would pass
its threshold of 0.05.) Still, what is found is not what a trained model finds: RetinaNet's scores
stay at their prior probability 0.01, so that nothing is decoded or suppressed; RPN suppresses among
its usual number of candidates, but arbitrary ones. Predicted shapes stay close to the squares, and
boxes close to the anchors. The results say how many boxes came out.
"""
