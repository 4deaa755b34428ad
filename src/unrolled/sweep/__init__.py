"""One search space, in W&B's sweep format, and the engine that runs it on this machine."""
