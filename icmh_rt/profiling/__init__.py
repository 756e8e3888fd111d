"""How fast the codec is here, where the time goes, and how far the figures can be trusted.

`icmh profile` (docs/profiling.md). Each file measures or computes one thing; `run` puts them
together into a document of a fixed schema (`schema`), which tables, figures and comparisons read.
Nothing outside of this room imports it, apart from the command line.
"""
