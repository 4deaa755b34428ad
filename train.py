"""Train a model: `python train.py task=bitcount`, the same as `unrolled train task=bitcount`."""

import sys

if not sys.flags.safe_path:
    # The folder of this file comes first: what lies in it would stand for what is installed.
    del sys.path[0]

from unrolled.cli import train

if __name__ == "__main__":
    train()
