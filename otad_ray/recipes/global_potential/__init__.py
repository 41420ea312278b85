"""The potential over all training points: values fitted to a graph, and offsets of its pieces, trained if asked for."""
