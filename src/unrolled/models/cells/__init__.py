"""Cells that torch has no layer for, and the encoders made of them; one subject a file.

Each file has the cell, a subclass of `unroll.Cell` with its published equations, and an encoder
with the same signature as torch's own in `recurrent`. The gates of an LSTM are ordered input,
forget, cell, output, as in torch.
"""
