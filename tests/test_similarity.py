"""Maps of words are the scores of the grid, each where its location is."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from gridclip.predictor import Predictor
from gridclip.similarity import plot_similarity, similarity
from world import save_untrained_gridclip, save_untrained_vild

WORDS = ["red thing", "kite", "a $ and a $"]


@pytest.fixture(scope="module")
def folder(world, tiny_clip, tmp_path_factory):
    return save_untrained_gridclip(world, tiny_clip, tmp_path_factory.mktemp("similarity"))


@pytest.fixture
def load(folder):
    def load(**options):
        files = folder / "config.yaml", folder / "detector.pth"
        return Predictor(*files, vocabulary=WORDS, **options)

    return load


@pytest.fixture(scope="module")
def picture():
    """Its sides differ, and the network sees it larger and padded."""
    image = Image.effect_noise((160, 90), 60).convert("RGB")
    ImageDraw.Draw(image).rectangle((20, 10, 70, 60), fill=(250, 30, 30))
    return image


def test_a_pixel_has_the_best_score_of_the_locations_around_it(load, picture):
    predictor = load()
    found = similarity(predictor, picture)
    assert found.names == tuple(WORDS) and list(found.maps) == ["head", "dense", "combined"]
    inputs = predictor.prepare(picture)
    height, width = inputs["image"].shape[1:]
    assert (height, width) == (96, 171)
    (levels,) = predictor.model.score_maps([inputs])
    strides = (8, 16, 32, 64, 128)
    y, x = np.mgrid[:height, :width]
    for name, values in found.maps.items():
        assert values.shape == (3, height, width)
        of_levels = [
            getattr(level, name)[y // stride, x // stride].numpy()
            for level, stride in zip(levels, strides, strict=True)
        ]
        expected = of_levels[0] if name == "dense" else np.max(of_levels, axis=0)
        np.testing.assert_array_equal(values.numpy(), expected.transpose(2, 0, 1))
        assert 0 <= values.min() < values.max() <= 1


def test_the_best_box_is_the_words_best_detection(load, picture):
    predictor = load()
    found, detections = similarity(predictor, picture), predictor(picture, max_detections=5000)
    for i, name in enumerate(WORDS):
        best = detections[detections.pred_classes == i][0]
        assert best.names == [name]
        torch.testing.assert_close(found.scores[i], best.scores[0])
        torch.testing.assert_close(found.boxes[i], best.pred_boxes.tensor[0], rtol=0, atol=0.01)


def test_without_dense_scores_the_head_counts(load, picture):
    found = similarity(load(overrides=["model.dense_scores=null"]), picture)
    assert list(found.maps) == ["head", "combined"]
    assert torch.equal(found.maps["head"], found.maps["combined"])


def test_a_detector_without_a_grid_is_refused(world, tiny_clip, tmp_path, picture):
    folder = save_untrained_vild("text", world, tiny_clip, tmp_path)
    predictor = Predictor(folder / "config.yaml", folder / "detector.pth", vocabulary=WORDS)
    with pytest.raises(ValueError, match="ViLD .* no grid"):
        similarity(predictor, picture)


@pytest.mark.parametrize(("dense", "columns"), [([], 4), (["model.dense_scores=null"], 3)])
def test_plot(load, picture, tmp_path, dense, columns):
    found = similarity(load(overrides=dense), picture)
    for values in found.maps.values():
        values[:] = 0
    found.maps["combined"][0, :, : 171 // 2] = 1  # the left half of the first word
    plot_similarity(picture, found, tmp_path / "new" / "plot.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["plot.png"]
    drawn = np.asarray(Image.open(tmp_path / "new/plot.png").convert("RGB")).astype(int)
    red = (drawn[..., 0] > drawn[..., 1] + 60) & (drawn[..., 1] < 30)
    assert 1.0 < drawn.shape[1] / (columns * 260) < 1.8
    # The last column of maps, the first row, its left half; to the right of it is the scale.
    left, right = int(130 * 2.6 * (columns - 1)), int(130 * 2.6 * columns)
    panel = red[: drawn.shape[0] // 3, left:right].mean(axis=0)
    assert panel.max() > 0.3 and not red[drawn.shape[0] // 2 :, left:right].any()


def test_fonts_and_formulas(load, picture, tmp_path, recwarn):
    plot_similarity(picture, similarity(load(), picture), tmp_path / "plot.png")
    assert not [w for w in recwarn if "Glyph" in str(w.message) or "mathtext" in str(w.message)]
