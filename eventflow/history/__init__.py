"""Going back to an earlier run: `rerun` makes a new run that keeps its results."""
