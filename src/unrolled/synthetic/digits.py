"""Images as sequences: scikit-learn's 1,797 hand-written digits, row by row."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveInt

from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensor_data import TensorData
from unrolled.data.tensors import TensorSequences
from unrolled.data.tuning import Share
from unrolled.errors import UserError

COUNT, SIDE, CLASSES = 1_797, 8, 10


class DigitImages(TensorData):
    """8 x 8 images as sequences of 8 rows; which digit is it?

    Args:
        val_size: Validation images.
        test_size: Test images; all others train.
        batch_size: Images of an optimizer step, over all processes.
        eval_batch_size: Images of a validation or test batch, over all processes.
        shuffle: A new order of the training images each epoch.
        seed: Of the split and of the order.
        workers: Processes that gather batches ahead; 0 gathers in the one that trains.
        hpo_val: Share of the validation images by which configurations are chosen, apart from
            those by which the checkpoint is.
    """

    def __init__(
        self,
        val_size: PositiveInt = 180,
        test_size: PositiveInt = 360,
        batch_size: PositiveInt = 50,
        eval_batch_size: PositiveInt = 1_000,
        shuffle: bool = True,
        seed: int = 0,
        workers: NonNegativeInt = 0,
        hpo_val: Share = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle, seed, workers, hpo_val)
        if val_size + test_size >= COUNT:
            raise UserError(
                f"data.val_size={val_size} and data.test_size={test_size} leave none of the "
                f"{COUNT:,} images to train on"
            )
        self.val_size = val_size
        self.test_size = test_size

    @property
    def schema(self) -> Schema:
        """One feature of 8 channels, `row`; ten classes."""
        return Schema((Numeric("row", SIDE),), CLASSES)

    def make(self) -> dict[str, TensorSequences]:
        """The images in a random order, cut in three.

        Raises:
            UserError: Without scikit-learn.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError(
                "data=digits: the images are scikit-learn's; pip install scikit-learn"
            ) from None
        digits = load_digits()
        # Pixels are 0 .. 16.
        rows = torch.from_numpy(digits.images).float() / 16
        targets = torch.from_numpy(digits.target).long()
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.seed))
        sizes = [self.val_size, self.test_size, COUNT - self.val_size - self.test_size]
        val, test, train = torch.split(order, sizes)
        return {
            name: TensorSequences({"row": rows[part]}, targets[part])
            for name, part in (("train", train), ("val", val), ("test", test))
        }
