import pytest
from detectron2.data import transforms as T

from gridclip.export.description import Form, describe
from gridclip_runtime.vocabulary import Vocabulary


def test_other_words_are_kept_beside_those_of_the_training(small_detector):
    trained = small_detector.names
    about = describe(small_detector.with_vocabulary(["dog", "kite"]), Form())
    assert Vocabulary.from_json(about["vocabulary"]).names == ("dog", "kite")
    read = Vocabulary.from_json(about["training_vocabulary"])
    assert read.names == trained
    own = small_detector.model.classifier.training_vocabulary
    assert (read.embeddings == own.embeddings.numpy()).all()


def test_fixed_words_are_names_alone(small_detector):
    about = describe(small_detector, Form(words_as_input=False))
    assert tuple(about["names"]) == small_detector.names
    assert about["inputs"] == ["images"] and "vocabulary" not in about


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], None),
        ([T.ResizeShortestEdge(640, 900)], [640, 900]),
        ([T.ResizeShortestEdge([640], 900, sample_style="choice")], [640, 900]),
    ],
)
def test_resizing(steps, expected, small_detector):
    predictor = small_detector.with_vocabulary(["dog"])
    predictor.resize = T.AugmentationList(steps)
    assert describe(predictor, Form())["resize"] == expected


@pytest.mark.parametrize(
    "steps",
    [
        [T.Resize((64, 64))],
        [T.ResizeShortestEdge((320, 640), 900)],
        [T.ResizeShortestEdge(640, 900), T.RandomFlip()],
    ],
)
def test_other_preparations_are_refused(steps, small_detector):
    predictor = small_detector.with_vocabulary(["dog"])
    predictor.resize = T.AugmentationList(steps)
    with pytest.raises(ValueError, match="dataloader.test.mapper.augmentations"):
        describe(predictor, Form())
