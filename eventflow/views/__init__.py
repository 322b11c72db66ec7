"""The built-in projections: pure folds of the log, and the states and reports that show them."""
