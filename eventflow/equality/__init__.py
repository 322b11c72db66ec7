"""Equality of values: `identical` compares exact types and bits, `pickle_parts` finds the parts that a pickle leaves out."""
