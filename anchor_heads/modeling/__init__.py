"""What models are made of besides anchors: backbones, matching, box regression, detectors."""
