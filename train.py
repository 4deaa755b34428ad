"""Train a model: `python train.py task=bitcount`, the same as `unrolled train task=bitcount`."""

from unrolled.cli import train

if __name__ == "__main__":
    train()
