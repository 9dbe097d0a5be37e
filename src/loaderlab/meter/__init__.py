"""Where a step's time goes: clocks, the five phases of each step, and the figures made of them."""
