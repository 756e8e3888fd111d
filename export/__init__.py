"""What makes a bundle run elsewhere: `icmh export onnx` and `icmh export tensorrt`.

Installed as ``icmh_rt.export``; the modules without an underscore are scripts as well.
"""
