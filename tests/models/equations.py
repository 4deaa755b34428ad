"""The published equations of the cells in numpy, one sequence and one step at a time.

Written from the papers' formulas, with one product for each matrix and gate; nothing of the package
is called. `w` has the weights by the names of the cell's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]
Options = dict[str, Any]
EPSILON = 1e-5


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def elman(w: Weights, xs: Array, options: Options) -> list[Array]:
    transfers: dict[str, Callable[[Array], Array]] = {
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "relu": lambda a: np.maximum(a, 0.0),
    }
    f = transfers[options.get("transfer", "sigmoid")]
    outputs: list[Array] = []
    for t, x in enumerate(xs):
        if t == 0 and "start_bias" in w:
            feedback = w["start_bias"]
        elif t == 0:
            feedback = np.zeros(len(w["input.bias"]))
        else:
            feedback = w["feedback.weight"] @ outputs[-1] + w.get("feedback.bias", 0.0)
        outputs.append(f(w["input.weight"] @ x + w["input.bias"] + feedback))
    return outputs


def peephole_lstm(w: Weights, xs: Array, options: Options) -> list[Array]:
    w_i, w_f, w_g, w_o = np.split(w["input.weight"], 4)
    b_i, b_f, b_g, b_o = np.split(w["input.bias"], 4)
    u_i, u_f, u_g, u_o = np.split(w["hidden.weight"], 4)
    size = len(b_i)
    d_i, d_f, d_g, d_o = np.split(w.get("hidden.bias", np.zeros(4 * size)), 4)
    p_i = p_f = p_o = np.zeros((size, size))
    e_i = e_f = e_o = np.zeros(size)
    if options["peepholes"] == "diagonal":
        p_i, p_f, p_o = (np.diag(row) for row in w["peephole"])
    elif options["peepholes"] == "full":
        p_i, p_f = np.split(w["peep_input_forget.weight"], 2)
        e_i, e_f = np.split(w["peep_input_forget.bias"], 2)
        p_o, e_o = w["peep_output.weight"], w["peep_output.bias"]
    h, c = np.zeros(size), np.zeros(size)
    outputs: list[Array] = []
    for x in xs:
        i = sigmoid(w_i @ x + b_i + u_i @ h + d_i + p_i @ c + e_i)
        f = sigmoid(w_f @ x + b_f + u_f @ h + d_f + p_f @ c + e_f)
        g = np.tanh(w_g @ x + b_g + u_g @ h + d_g)
        c = f * c + i * g
        o = sigmoid(w_o @ x + b_o + u_o @ h + d_o + p_o @ c + e_o)
        h = o * np.tanh(c)
        outputs.append(h)
    return outputs


def reset_before_gru(w: Weights, xs: Array, options: Options) -> list[Array]:
    w_z, w_r, w_v = np.split(w["input.weight"], 3)
    b_z, b_r, b_v = np.split(w["input.bias"], 3)
    u_z, u_r = np.split(w["gates.weight"], 2)
    s = np.zeros(len(b_z))
    outputs: list[Array] = []
    for x in xs:
        z = sigmoid(w_z @ x + u_z @ s + b_z)
        r = sigmoid(w_r @ x + u_r @ s + b_r)
        new = np.tanh(w_v @ x + w["value.weight"] @ (r * s) + b_v)
        s = (1 - z) * new + z * s
        outputs.append(s)
    return outputs


def mufuru(w: Weights, xs: Array, options: Options) -> list[Array]:
    names = options["operations"]
    count = len(names)
    inputs = np.split(w["input.weight"], count + 2)
    biases = np.split(w["input.bias"], count + 2)
    recurrent = np.split(w["gates.weight"], count + 1)
    s = np.zeros(len(biases[0]))
    outputs: list[Array] = []
    for x in xs:
        sums = [a @ x + u @ s + b for a, u, b in zip(inputs, recurrent, biases, strict=False)]
        r = sigmoid(sums[count])
        v = np.tanh(inputs[-1] @ x + w["value.weight"] @ (r * s) + biases[-1])
        shares = np.exp(np.stack(sums[:count]))
        shares /= shares.sum(0)
        result = {
            "keep": s,
            "replace": v,
            "mul": s * v,
            "diff": s - v,
            "forget": 0 * s,
            "sqrt_diff": 0.25 * np.sqrt(np.abs(s - v)),
            "max": np.maximum(s, v),
            "min": np.minimum(s, v),
        }
        s = sum((p * result[n] for p, n in zip(shares, names, strict=True)), np.zeros_like(s))
        outputs.append(s)
    return outputs


def layer_norm_lstm(w: Weights, xs: Array, options: Options) -> list[Array]:
    def normal(a: Array) -> Array:
        return (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + EPSILON)

    size = len(w["gain_cell"])
    h, c = np.zeros(size), np.zeros(size)
    outputs: list[Array] = []
    for x in xs:
        sums = (
            w["gain_input"] * normal(w["input.weight"] @ x)
            + w["gain_hidden"] * normal(w["hidden.weight"] @ h)
            + w["bias"]
        )
        i, f, g, o = np.split(sums, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(w["gain_cell"] * normal(c) + w["shift_cell"])
        outputs.append(h)
    return outputs


def batch_norm_lstm(
    w: Weights, batch: list[Array]
) -> tuple[list[list[Array]], list[tuple[Array, Array]]]:
    """All sequences at once, in training.

    Returns:
        The outputs of each sequence, and for each step the mean and the unbiased variance of W x,
        U h and c, side by side, over the sequences that have it.
    """
    size = len(w["gain_cell"])
    h = {k: np.zeros(size) for k in range(len(batch))}
    c = dict(h)
    outputs: list[list[Array]] = [[] for _ in batch]
    statistics: list[tuple[Array, Array]] = []
    for t in range(max(len(xs) for xs in batch)):
        going = [k for k, xs in enumerate(batch) if len(xs) > t]
        kept: list[tuple[Array, Array]] = []

        def normal(a: Array, kept: list[tuple[Array, Array]] = kept) -> Array:
            kept.append((a.mean(0), a.var(0, ddof=1)))
            return (a - a.mean(0)) / np.sqrt(a.var(0) + EPSILON)

        from_x = normal(np.stack([w["input.weight"] @ batch[k][t] for k in going]))
        from_h = normal(np.stack([w["hidden.weight"] @ h[k] for k in going]))
        sums = w["gain_input"] * from_x + w["gain_hidden"] * from_h + w["bias"]
        i, f, g, o = np.split(sums, 4, axis=1)
        old = np.stack([c[k] for k in going])
        new = sigmoid(f) * old + sigmoid(i) * np.tanh(g)
        out = sigmoid(o) * np.tanh(w["gain_cell"] * normal(new) + w["shift_cell"])
        for row, k in enumerate(going):
            h[k], c[k] = out[row], new[row]
            outputs[k].append(out[row])
        means, variances = zip(*kept, strict=True)
        statistics.append((np.concatenate(means), np.concatenate(variances)))
    return outputs, statistics
