"""Time and memory of models beside those of others.

- ``workload``: what the models do: predict on a batch, or take a training step.
- ``parts``: the time of each part of it.
- ``memory``: the most memory that it needs.
- ``measure``: models in turn, and the ratios between them.
- ``report``: the tables.

The parts, which together are all of a model, are its backbone with FPN, what its anchor strategy
names (head, post-processing, assignment and loss), its ROI heads, and "other": normalising and
padding the images, resizing what was found. A name with a colon is a part of a part. In training a
part is its forward and its backward pass, the latter also by itself; there is no optimizer step.

The images are noise, and the objects lie anywhere. Weights are random unless the config names some;
the input is then scaled until the features of the first level have the deviation ``FEATURE_SCALE``.
(Those of a random R-50 have one in the thousands, and almost half of RetinaNet's scores would pass
its threshold of 0.05.) Still, the detections are not those of a trained model: RetinaNet's scores
stay at their prior probability 0.01, so that nothing is decoded or suppressed; RPN suppresses among
its usual number of candidates, but arbitrary ones. Predicted shapes stay close to the squares, and
boxes close to the anchors.

On a GPU PyTorch by default rounds the input of float32's convolutions to TF32; deformable ones and
matrix products stay in float32.

A model that keeps some locations only, by a prediction, keeps a given share of them, in blobs.
"""
