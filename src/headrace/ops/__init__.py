"""What models call: the Ops protocol, the arrays of a step, and the implementations by device."""
