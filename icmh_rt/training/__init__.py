"""Training of the base codec and of adapters for it, and folding of a base into a bundle. Nothing
imports this package.
"""
