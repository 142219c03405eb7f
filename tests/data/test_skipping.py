from carp_eval.data.skipping import SkippedImage, SkippedImages


def test_images_are_counted_once_and_listed_in_order():
    skipped = SkippedImages()
    assert skipped.describe() == "0 images skipped"
    skipped.add(SkippedImage(4, "b/4.jpg", "b/4.jpg is cut short"))
    assert skipped.describe() == "1 image skipped\n  b/4.jpg: b/4.jpg is cut short"
    skipped.add(SkippedImage(1, "a/1.jpg", "empty"))
    skipped.add(SkippedImage(4, "b/4.jpg", "b/4.jpg is cut short"))
    assert len(skipped) == 2
    lines = skipped.describe(at_most=1).splitlines()
    assert lines == ["2 images skipped", "  a/1.jpg: empty", "  ... and 1 more"]
