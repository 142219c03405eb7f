import json

import torch
from safetensors.torch import load

from carp_eval.checkpoints.export import state_files


def test_equal_entries_make_equal_bytes_whatever_order_the_writer_takes():
    entries = {"a.weight": torch.arange(3.0), "é": torch.ones(2, 2, dtype=torch.float16)}
    plain = state_files.safetensors.torch.save
    files = []
    for turned in (False, True):
        order = (lambda told: dict(reversed(told.items()))) if turned else dict
        header = {"format": "pt", "mean": "0.5", "std": "é", "a": "1"}

        def save(tensors, metadata, order=order):
            content = plain(tensors)
            start = 8 + int.from_bytes(content[:8], "little")
            told = json.dumps({"__metadata__": order(metadata)} | json.loads(content[8:start])).encode()
            return len(told).to_bytes(8, "little") + told + content[start:]

        files.append(state_files._in_order(save(entries, header)))
    assert files[0] == files[1]
    assert int.from_bytes(files[0][:8], "little") % 8 == 0
    assert all(torch.equal(value, entries[name]) for name, value in load(files[0]).items())
