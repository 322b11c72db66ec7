"""One format per module: value ⇄ bytes. `registry` finds a codec by its name."""
