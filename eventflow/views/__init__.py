"""The built-in projections: pure folds of the log, and the pictures that people read from them."""
