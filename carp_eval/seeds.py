"""Randomness without state: each draw's seed follows from the recipe's seed and where it is needed.

A training that goes on at step 1,000 draws what an undisturbed one would, with nothing to save.
"""

import hashlib

import torch


def derive(seed: int, *place: str | int) -> int:
    """Return a seed for one place: `derive(0, "views", epoch, index)`."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a generator of random numbers for one place."""
    return torch.Generator().manual_seed(derive(seed, *place))
