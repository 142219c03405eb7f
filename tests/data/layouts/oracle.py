"""What torchvision makes of the same folder, for comparison."""

from carp_eval.data.images import Images


def paths_and_labels(images: Images) -> list[tuple[str, int]]:
    return [(images.key(index), int(images.labels[index])) for index in range(len(images))]


def same_as_torchvision(images: Images, theirs: object) -> None:
    """Compare files, their order and their labels; torchvision calls them the same in several classes."""
    assert len(images)
    assert [(str(images.path(index)), int(images.labels[index])) for index in range(len(images))] == [
        (str(path), label) for path, label in zip(theirs._image_files, theirs._labels, strict=True)
    ]
    for index in range(len(images)):
        assert images.image(index).convert("RGB").tobytes() == theirs[index][0].tobytes()
