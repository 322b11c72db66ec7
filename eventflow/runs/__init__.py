"""A run from outside: its options, launching it, finding it, reading its state."""
