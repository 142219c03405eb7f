import pickle

import numpy as np
import pytest

from carp_eval.data.layouts import downsampled
from carp_eval.errors import DataError
from tests.data.layouts import copies


def write(place, batches=((1, [1000, 1]), (2, [7]))):
    """Write batches of so many pictures, with these classes, counted from 1; return the pictures."""
    shown = []
    for number, labels in batches:
        pictures, rows = copies.downsampled(len(labels), seed=10 * number)
        np.savez(
            place / f"train_data_batch_{number}.npz", data=rows, labels=np.array(labels), mean=rows.mean(0)
        )
        shown += pictures
    pictures, rows = copies.downsampled(1, seed=90)
    np.savez(place / "val_data.npz", data=rows, labels=np.array([3]))
    return shown, pictures


def test_batches_are_joined_in_the_order_of_their_numbers(tmp_path):
    train, validation = write(
        tmp_path, ((10, [5]), (9, [4]), *((number, [number]) for number in range(1, 9)))
    )
    images = downsampled.read_downsampled("imagenet64", tmp_path).open("train")
    # Counted from 0, as classes are here.
    assert images.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3, 4]
    in_order = [*train[2:], train[1], train[0]]
    assert [images.image(n).tobytes() for n in range(10)] == [image.tobytes() for image in in_order]
    other = downsampled.read_downsampled("imagenet64", tmp_path).open("val")
    assert (other.labels.tolist(), other.image(0).tobytes()) == ([2], validation[0].tobytes())


def test_classes_are_named_by_the_authors_list(tmp_path):
    write(tmp_path)
    source = downsampled.read_downsampled("imagenet64", tmp_path)
    images = source.open("train")
    assert [images.class_names[label] for label in images.labels] == ["1000", "1", "7"]
    copies.write_lines(
        tmp_path / "map_clsloc.txt",
        [f"n{number:08d} {number} thing_{number}" for number in range(1000, 0, -1)],
    )
    images = source.open("train")
    assert [images.class_names[label] for label in images.labels] == ["n00001000", "n00000001", "n00000007"]
    copies.write_lines(tmp_path / "map_clsloc.txt", ["n02119789 1 kit_fox"])
    with pytest.raises(DataError, match="should number 1000 classes, but has 1"):
        source.open("train")


def test_the_pickled_form_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (tmp_path / "val_data").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        DataError, match=r"is a pickle, which can run any code and is not read: get the npz form"
    ):
        downsampled.read_downsampled("imagenet64", tmp_path)
    (tmp_path / "val_data").unlink()
    assert downsampled.read_downsampled("imagenet64", tmp_path) is None


def test_pickled_arrays_in_a_batch_are_refused(tmp_path):
    np.savez(tmp_path / "val_data.npz", data=np.array([object()]), labels=np.array([None]))
    with pytest.raises(DataError, match="cannot be read as a batch of the npz form with 'labels'"):
        downsampled.read_downsampled("imagenet64", tmp_path).open("validation")


def test_broken_batches_are_refused(tmp_path):
    write(tmp_path)
    source = downsampled.read_downsampled("imagenet64", tmp_path)
    path = tmp_path / "train_data_batch_2.npz"
    whole = path.read_bytes()
    _, rows = copies.downsampled(2, seed=0)
    for content, message in (
        ({"data": rows, "labels": [5]}, "does not fit to the batches before it"),
        ({"data": rows[:1], "labels": [5, 6]}, "has 4 labels, but 3 images"),
        ({"data": rows[:1, :-1], "labels": [5]}, "should have rows of 3 x 64 x 64 bytes"),
        ({"data": rows[:1].astype(int), "labels": [5]}, "should have rows of 3 x 64 x 64 bytes"),
        ({"data": rows[:1], "labels": [0]}, "classes from 0 to 1000"),
        ({"data": rows[:1]}, "with 'labels'"),
    ):
        np.savez(path, **content)
        with pytest.raises(DataError, match=message):
            source.open("train")
    for length in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="get it again"):
            source.open("train")
    (tmp_path / "train_data_batch_1.npz").unlink()
    with pytest.raises(DataError, match=r"has no train_data_batch_1\.npz"):
        downsampled.read_downsampled("imagenet64", tmp_path)
