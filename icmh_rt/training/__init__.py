"""Training of the base codec and folding of its result into a bundle. Nothing imports this
package.
"""
