"""Rate-distortion evaluation: metrics, Bjontegaard deltas, anchors, tables and figures.

Knows no torch: the codec is used through `icmh_rt.codec`, imported when it is measured.
"""
