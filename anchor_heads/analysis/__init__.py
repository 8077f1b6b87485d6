"""What anchors do with a data set: compare, diagnose, benchmark, parameters and FLOPs."""
