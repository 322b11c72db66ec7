"""Runnable examples; each is one module, started as `python -m examples.<name>`."""
