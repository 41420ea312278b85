"""The potential over all training points: values fitted to a graph, and its pieces.

There is one piece for each row, with offsets that are trained if asked for, or one for each cluster of rows.
"""
