"""When two values are the same: `identical` compares exact types and bits, `pickle_parts` says which parts a pickle leaves out."""
