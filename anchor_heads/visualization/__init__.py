"""Drawing of anchors, detections and plots."""
