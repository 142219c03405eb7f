"""Networks that look trained: fresh ones have statistics that the door takes for those of lost weights."""

import torch


@torch.no_grad()
def trained(network, *, seed=0):
    """Fill every entry of a network with values as training might leave them, and return it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, entry in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            entry.fill_(100 + seed)
        elif name.endswith("running_var"):
            entry.uniform_(0.5, 1.5, generator=generator)
        elif entry.ndim > 1:
            entry.normal_(std=(2 / entry[0].numel()) ** 0.5, generator=generator)
        else:
            start = 1.0 if name.endswith("weight") else 0.0
            entry.copy_(start + 0.1 * torch.randn(entry.shape, generator=generator))
    return network.eval()


def images(side=64, *, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def features(network, batch):
    return network(batch)


def without_fc(network):
    """Return a ResNet's entries, its classifier's left out."""
    return {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}


def pooled(network, batch):
    """Return what goes into a ResNet's classifier, by a hook: no part of it is replaced."""
    seen = []
    hook = network.fc.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        network(batch)
    hook.remove()
    return seen[0]
