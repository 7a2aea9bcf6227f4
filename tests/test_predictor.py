import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from PIL import Image, ImageDraw
from torch.nn.functional import normalize

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.train import average_model, build_model
from gridclip.modeling import ClosedSetClassifier
from gridclip.predictor import Predictor
from gridclip.queries import QueryEncoder
from gridclip.text import TextEmbeddings, as_text_embeddings

CONFIG = Path(__file__).parents[1] / "projects/GridCLIP/configs/lvis/gridclip_r50_ov_smoke.py"
DIM = 64
TRAINED = ("cat", "dog", "fire hydrant", "umbrella")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_clip):
    """tiny.pt, other.pt, names.txt, text.safetensors and detector.pth: what a training leaves."""
    folder = tmp_path_factory.mktemp("predictor")
    torch.manual_seed(0)
    sizes = dict(embed_dim=DIM, vision_width=16)
    archive = make_clip(**sizes).rename(folder / "tiny.pt")
    make_clip(**sizes, seed=1).rename(folder / "other.pt")
    (folder / "names.txt").write_text("\n".join(TRAINED))
    cfg = make_config(folder)
    made = as_text_embeddings(cfg.clip.names, archive, cfg.clip.templates, progress=False)
    made.save(cfg.clip.text_embeddings)
    cfg.model.federated_weights = None
    model = build_model(cfg)
    checkpointer = GridCLIPCheckpointer(model, str(folder))
    checkpointer.load(str(archive))
    spread_boxes(model.head)
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    checkpointer.save("detector")
    return folder


def make_config(folder):
    cfg = LazyConfig.load(str(CONFIG))
    cfg.clip.weights = str(folder / "tiny.pt")
    cfg.clip.names = str(folder / "names.txt")
    cfg.clip.text_embeddings = str(folder / "text.safetensors")
    cfg.model.backbone.bottom_up.update(
        layers=(1, 1, 1, 1), width=16, embed_dim=DIM, input_resolution=64
    )
    cfg.model.backbone.out_channels = 32
    cfg.model.head.conv_dims = [32]
    cfg.model.classifier.embed_dim = DIM
    cfg.model.test_topk_candidates = 100
    return cfg


@pytest.fixture
def cfg(folder):
    return make_config(folder)


@pytest.fixture
def weights(folder):
    return folder / "detector.pth"


@pytest.fixture
def predictor(cfg, weights):
    return Predictor(cfg, weights)


@pytest.fixture(scope="module")
def picture():
    image = Image.effect_noise((120, 90), 60).convert("RGB")
    ImageDraw.Draw(image).rectangle((20, 10, 70, 60), fill=(250, 30, 30))
    return image


def same(a, b):
    return (
        a.image_size == b.image_size
        and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        and torch.equal(a.scores, b.scores)
        and torch.equal(a.pred_classes, b.pred_classes)
    )


@pytest.mark.parametrize(
    ("short_edge", "max_size", "resized"), [(160, 1333, (213, 160)), (160, 190, (190, 143))]
)
def test_boxes_are_in_the_pixels_of_the_picture(
    cfg, weights, picture, short_edge, max_size, resized
):
    resize = cfg.dataloader.test.mapper.augmentations[0]
    resize.short_edge_length, resize.max_size = short_edge, max_size
    predictor = Predictor(cfg, weights)
    instances = predictor(picture)

    pixels = np.asarray(picture.resize(resized, Image.Resampling.BILINEAR))
    with torch.no_grad():
        # Without "height" and "width" the boxes stay in the resized picture.
        inputs = {"image": torch.tensor(pixels).permute(2, 0, 1)}
        expected = predictor.model([inputs])[0]["instances"]
    width, height = resized
    scale = torch.tensor([120 / width, 90 / height] * 2)
    assert len(instances) == len(expected) > 10
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor * scale)
    torch.testing.assert_close(instances.scores, expected.scores)
    assert instances.image_size == (90, 120)
    boxes = instances.pred_boxes.tensor
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 120 and boxes[:, 3].max() <= 90
    assert (instances.scores.diff() <= 0).all()


def test_file_pil_image_and_array_are_the_same(predictor, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    expected = predictor(np.asarray(picture))
    assert len(expected)
    assert same(predictor(picture), expected)
    assert same(predictor(tmp_path / "picture.png"), expected)
    assert same(predictor(str(tmp_path / "picture.png")), expected)


def test_exif_orientation_is_applied(predictor, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "sideways.png", exif=exif)
    upright = np.rot90(np.asarray(picture), -1)
    expected = predictor(np.ascontiguousarray(upright))
    assert expected.image_size == (120, 90)
    assert same(predictor(tmp_path / "sideways.png"), expected)
    assert same(predictor(Image.open(tmp_path / "sideways.png")), expected)


def test_detections_can_be_changed_in_place(predictor, picture):
    instances = predictor(picture)
    before = instances.pred_boxes.tensor.clone()
    instances.pred_boxes.scale(2, 2)  # refused for tensors made in inference mode
    torch.testing.assert_close(instances.pred_boxes.tensor, 2 * before)


def test_vocabulary_of_names(predictor, picture, cfg, tmp_path):
    assert predictor.names == TRAINED
    predictor.set_vocabulary([" red   shoe", "traffic_cone"])
    assert predictor.names == ("red shoe", "traffic cone")
    assert predictor.model.num_classes == 2
    assert set(predictor(picture).pred_classes.tolist()) <= {0, 1}

    (tmp_path / "names.txt").write_text("red shoe\ntraffic cone\n")
    expected = as_text_embeddings(
        tmp_path / "names.txt", cfg.clip.weights, cfg.clip.templates, progress=False
    )
    torch.testing.assert_close(predictor.model.classifier.text_embeddings, expected.embeddings)


def test_vocabulary_of_files_and_text_embeddings(predictor, picture, folder, tmp_path):
    trained = TextEmbeddings.load(folder / "text.safetensors")
    all_trained = predictor(picture)
    rows = [TRAINED.index("umbrella"), TRAINED.index("cat")]
    vocabulary = replace(trained, names=("umbrella", "cat"), embeddings=trained.embeddings[rows])
    vocabulary.save(tmp_path / "two.safetensors")
    predictor.set_vocabulary(vocabulary)
    expected = predictor(picture)
    assert predictor.names == ("umbrella", "cat") and not same(expected, all_trained)

    predictor.set_vocabulary(folder / "names.txt")
    assert predictor.names == TRAINED and same(predictor(picture), all_trained)
    predictor.set_vocabulary(str(tmp_path / "two.safetensors"))
    assert predictor.names == ("umbrella", "cat") and same(predictor(picture), expected)
    predictor.set_vocabulary("voc")
    assert len(predictor.names) == 20


@pytest.mark.parametrize("from_start", [True, False])
def test_scores_do_not_depend_on_how_many_names_are_asked_for(cfg, weights, picture, from_start):
    """Of one, two or all names: a name's detections are the same. The others compete unseen."""
    for limit in ("test_topk_locations", "test_topk_candidates", "max_detections_per_image"):
        cfg.model[limit] = 10_000
    everything = Predictor(cfg, weights)(picture)
    for names in (["dog"], ["umbrella", "cat"]):
        if from_start:
            predictor = Predictor(cfg, weights, vocabulary=names)
        else:
            predictor = Predictor(cfg, weights)
            predictor.set_vocabulary(names)
        found = predictor(picture)
        for i, name in enumerate(names):
            expected = everything.scores[everything.pred_classes == TRAINED.index(name)]
            assert len(expected) > 10
            torch.testing.assert_close(found.scores[found.pred_classes == i], expected)


def test_without_the_training_vocabulary_few_names_have_no_competitors(
    cfg, weights, tmp_path, caplog
):
    cfg.clip.text_embeddings = str(tmp_path / "gone.safetensors")
    predictor = Predictor(cfg, weights, vocabulary=["dog"])
    assert len(predictor.model.classifier.competitors) == 0
    assert "gone.safetensors" in caplog.text and "compete" in caplog.text


@pytest.fixture(scope="module")
def pictures():
    sizes = [(120, 90), (90, 120), (160, 60), (100, 100), (70, 150), (130, 110)]
    return [np.asarray(Image.effect_noise(size, 60).convert("RGB")) for size in sizes]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_threads", [2, 4])
def test_threads_share_a_predictor(cfg, weights, pictures, num_threads, dtype):
    predictor = Predictor(cfg, weights, overrides=[f"train.inference.dtype={dtype}"])
    expected = [predictor(picture) for picture in pictures]
    assert min(map(len, expected)) > 10
    again = Predictor(predictor.cfg, weights)  # nothing is kept from a call before
    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(again, 8 * pictures))
    assert [same(a, b) for a, b in zip(found, 8 * expected, strict=True)] == [True] * 48


def test_a_call_keeps_the_vocabulary_it_began_with(predictor, pictures, folder):
    trained = TextEmbeddings.load(folder / "text.safetensors")
    larger = random_embeddings([f"thing {i}" for i in range(40)], DIM)
    expected = []
    for vocabulary in (larger, trained):
        predictor.set_vocabulary(vocabulary)
        expected.append([predictor(picture) for picture in pictures])
    assert not any(map(same, *expected))
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(predictor, picture) for picture in 8 * pictures]
        swaps = 0
        while not all(future.done() for future in found):
            predictor.set_vocabulary((larger, trained)[swaps % 2])
            swaps += 1
    assert swaps > 10
    for i, future in enumerate(found):
        instances = future.result()
        assert any(same(instances, results[i % len(pictures)]) for results in expected)


def test_a_vocabulary_shares_the_weights_with_the_one_before(predictor, picture):
    before = predictor.model
    predictor.set_vocabulary(["red shoe"])
    assert predictor.model is not before and len(before.classifier.names) == len(TRAINED)
    assert predictor.model.backbone is before.backbone and predictor.model.head is before.head
    assert predictor.model.classifier.bias is before.classifier.bias
    assert predictor.model.forward.__self__ is predictor.model


def test_each_user_may_have_a_vocabulary(predictor, picture):
    found = predictor(picture)
    one, other = map(predictor.with_vocabulary, (["red shoe"], ["kite", "cat"]))
    assert (one.names, other.names, predictor.names) == (("red shoe",), ("kite", "cat"), TRAINED)
    assert set(one(picture).names) == {"red shoe"} and same(predictor(picture), found)
    assert one.model.backbone is predictor.model.backbone and one.queries is predictor.queries
    with pytest.raises(ValueError, match="no category names"):
        one.with_vocabulary([])
    assert one.names == ("red shoe",)


def test_limits_of_a_call_share_the_weights(predictor, picture):
    found = predictor(picture)
    strict = dict(threshold=float(found.scores[5]), nms=0.1, max_detections=4)
    few = predictor(picture, **strict)
    assert len(few) <= 4 and (few.scores >= strict["threshold"]).all()
    assert same(predictor(picture), found)
    (view,) = predictor._state.views.values()
    own = {id(tensor) for tensor in (*predictor.model.parameters(), *predictor.model.buffers())}
    assert {id(tensor) for tensor in (*view.parameters(), *view.buffers())} == own
    assert view.classifier.vocabulary is predictor.model.classifier.vocabulary


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"threshold": 30}, "threshold is 30: take a number from 0 to 1"),
        ({"nms": float("nan")}, "nms is nan"),
        ({"max_detections": 0}, "max_detections is 0: take at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_limits_out_of_range_are_refused_by_the_call(predictor, picture, option, message):
    with pytest.raises(ValueError, match=message):
        predictor(picture, **option)
    with pytest.raises(ValueError, match=message):
        predictor.stream([], **option)


def test_a_limit_equals_the_same_setting(cfg, weights, predictor, picture):
    cfg.model.update(test_score_thresh=0.2, test_nms_thresh=0.3, max_detections_per_image=7)
    expected = Predictor(cfg, weights)(picture)
    assert same(predictor(picture, threshold=0.2, nms=0.3, max_detections=7), expected)


def test_lists_folders_and_generators(predictor, pictures, tmp_path):
    expected = [predictor(picture) for picture in pictures]
    for i, picture in enumerate(pictures):
        Image.fromarray(np.asarray(picture)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    for several in (pictures, (p for p in pictures), tmp_path, str(tmp_path)):
        found = predictor(several)
        assert len(found) == len(pictures) and all(map(same, found, expected))
    assert [p.source for p in predictor(tmp_path)] == [
        str(tmp_path / f"{i}.png") for i in range(len(pictures))
    ]
    assert predictor([]) == []


def test_a_stream_reads_no_more_than_a_batch_ahead(predictor, picture):
    taken = []

    def pictures():
        for i in range(10):
            taken.append(i)
            yield picture

    stream = predictor.stream(pictures(), batch_size=2)
    assert not taken
    next(stream)
    assert taken == [0, 1]


def test_errors_of_a_stream_go_to_the_caller(predictor, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    given = [picture, tmp_path / "broken.png", picture, tmp_path / "absent.png"]
    failed = {}
    stream = predictor.stream(given, batch_size=2, on_error=failed.__setitem__)
    expected = predictor(picture)
    assert [same(found, expected) for found in stream] == [True, True]
    assert isinstance(failed[given[1]], ValueError)
    assert isinstance(failed[given[3]], FileNotFoundError)
    with pytest.raises(ValueError, match=r"broken\.png"):
        predictor(given)


def test_what_came_before_an_error_is_not_lost(predictor, picture):
    stream = predictor.stream([picture, picture, "none.png", picture], batch_size=8)
    assert len(next(stream)) == len(next(stream)) > 0
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        next(stream)


def test_batches_are_of_one_size_and_keep_their_order(predictor, pictures):
    """Mixed with padding, their scores would differ."""
    mixed = [pictures[i] for i in (0, 0, 1, 2, 2, 2, 0, 3)]
    expected = [predictor(picture) for picture in mixed]
    for found, one in zip(predictor(mixed, batch_size=2), expected, strict=True):
        assert found.image_size == one.image_size
        torch.testing.assert_close(found.scores, one.scores, rtol=1e-5, atol=1e-6)


def test_a_batch_of_one_size_equals_its_pictures(predictor, picture):
    pictures = [picture, *(picture.transpose(way) for way in (0, 1, 3))]
    expected = [predictor(picture) for picture in pictures]
    for found, one in zip(predictor(pictures, batch_size=8), expected, strict=True):
        assert torch.equal(found.pred_classes, one.pred_classes)
        torch.testing.assert_close(found.scores, one.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            found.pred_boxes.tensor, one.pred_boxes.tensor, rtol=1e-5, atol=1e-3
        )


def random_embeddings(names, dim, sha256=""):
    embeddings = normalize(torch.randn(len(names), dim), dim=1)
    return TextEmbeddings(names, embeddings, (), "tiny", sha256)


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        ([], ValueError, "no category names"),
        (["cat", " Cat"], ValueError, "0 and 1 have the same name"),
        (["cat", "  "], ValueError, "none of them empty"),
        (["cat", 3], ValueError, "list of strings"),
        (random_embeddings(["cat"], 32), ValueError, "width 32 .* but 64 is needed"),
        (random_embeddings([], DIM), ValueError, "vocabulary is empty"),
        (random_embeddings(["cat"], DIM, "f" * 64), ValueError, "sha256 ffffffff.* one model"),
        ("no.safetensors", FileNotFoundError, "no.safetensors"),
        ("no.txt", FileNotFoundError, "no.txt"),
    ],
)
def test_bad_vocabulary_leaves_the_old_one(predictor, picture, vocabulary, error, message):
    before = predictor(picture)
    with pytest.raises(error, match=message):
        predictor.set_vocabulary(vocabulary)
    assert predictor.names == TRAINED and predictor.model.num_classes == len(TRAINED)
    assert same(predictor(picture), before)


def test_names_need_the_clip_model_of_the_training(predictor, folder):
    with pytest.raises(ValueError, match="of CLIP model other .* of tiny .*: use one model"):
        predictor.queries = QueryEncoder(folder / "other.pt", "single")
        predictor.set_vocabulary(["cat"])
    with pytest.raises(FileNotFoundError, match="no.pt"):
        predictor.queries = QueryEncoder(folder / "no.pt", "single")
        predictor.set_vocabulary(["cat"])
    assert predictor.names == TRAINED


def test_own_vocabulary_needs_no_training_vocabulary(cfg, weights, picture, tmp_path):
    cfg.model.dense_scores = None
    predictor = Predictor(cfg, weights)
    cfg.clip.text_embeddings = str(tmp_path / "missing.safetensors")
    cfg.clip.names = str(tmp_path / "missing.txt")
    mine = Predictor(cfg, weights, vocabulary=["kite", "red shoe", "cat"])
    assert mine.names == ("kite", "red shoe", "cat")
    assert not list(tmp_path.iterdir())
    predictor.set_vocabulary(["kite", "red shoe", "cat"])
    assert same(mine(picture), predictor(picture))


def test_training_vocabulary_is_computed_if_it_is_missing(
    cfg, weights, predictor, picture, tmp_path
):
    cfg.clip.text_embeddings = str(tmp_path / "text.safetensors")
    again = Predictor(cfg, weights)
    assert again.names == TRAINED and (tmp_path / "text.safetensors").is_file()
    assert same(again(picture), predictor(picture))


def test_training_vocabulary_needs_no_data(cfg, weights):
    """Its names are the config's, or without them those of its file of text embeddings."""
    cfg.data.train.update(dataset=None, json="gone.json", images="gone")
    assert Predictor(cfg, weights).names == TRAINED
    cfg.clip.names = None
    assert Predictor(cfg, weights).names == TRAINED
    cfg.clip.text_embeddings = "gone.safetensors"
    with pytest.raises(FileNotFoundError, match="not at gone.json"):
        Predictor(cfg, weights)


def test_text_embeddings_of_other_names_are_refused(cfg, weights, tmp_path):
    (tmp_path / "other.txt").write_text("\n".join(TRAINED[:-1]))
    cfg.clip.names = str(tmp_path / "other.txt")
    with pytest.raises(ValueError, match="text.safetensors does not fit: .*Delete the file"):
        Predictor(cfg, weights)


def test_config_is_not_changed_and_overrides_count(cfg, weights):
    before = copy.deepcopy(cfg)
    predictor = Predictor(cfg, weights, overrides=["model.max_detections_per_image=7"])
    assert predictor.model.max_detections_per_image == 7
    assert cfg == before


def test_weights_default_to_those_of_the_config(cfg, weights, predictor, picture):
    cfg.train.init_checkpoint = str(weights)
    assert same(Predictor(cfg)(picture), predictor(picture))


def test_averaged_weights_are_used_where_the_run_has_them(cfg, weights, picture, tmp_path):
    plain = Predictor(cfg, weights)
    cfg.train.ema.enabled = True
    with pytest.raises(ValueError, match="holds no averaged weights"):
        Predictor(cfg, weights)
    cfg.model.federated_weights = None
    model = build_model(cfg)
    checkpointer = GridCLIPCheckpointer(model, str(tmp_path))
    checkpointer.load(str(weights))
    averaged = average_model(cfg, checkpointer)
    averaged.n_averaged += 1
    averaged.module.classifier.bias.data += 1
    checkpointer.save("both")
    both = Predictor(cfg, tmp_path / "both.pth")
    assert both.model.classifier.bias == plain.model.classifier.bias + 1
    assert both(picture).scores[0] > plain(picture).scores[0]


def test_closed_set_classifier_refuses_a_vocabulary(cfg, weights):
    cfg.model.classifier._target_ = ClosedSetClassifier
    with pytest.raises(ValueError, match="its vocabulary is fixed"):
        Predictor(cfg, weights, vocabulary=["cat"])


def test_missing_weights_are_named(cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match="no_detector.pth"):
        Predictor(cfg, tmp_path / "no_detector.pth")
    with pytest.raises(FileNotFoundError, match="no_config.py"):
        Predictor(tmp_path / "no_config.py", tmp_path / "no_detector.pth")


def test_weights_that_leave_the_detector_untrained_are_refused(cfg, folder, weights):
    with pytest.raises(
        ValueError, match="tiny.pt holds a CLIP.*give a detector's weights by train.init_ch"
    ):
        Predictor(cfg, folder / "tiny.pt")
    cfg.model.head.conv_dims = [64]
    with pytest.raises(ValueError, match="detector.pth holds another detector.*for head"):
        Predictor(cfg, weights)


def test_weights_with_more_convolutions_than_the_config_are_refused(cfg, weights, folder, tmp_path):
    longer = make_config(folder)
    longer.model.head.conv_dims = [32, 32]
    longer.model.federated_weights = None
    GridCLIPCheckpointer(build_model(longer), str(tmp_path)).save("longer")
    with pytest.raises(ValueError, match="longer.pth holds another detector.*not nothing"):
        Predictor(cfg, tmp_path / "longer.pth")


def test_malformed_override_and_absent_device(cfg, weights):
    with pytest.raises(ValueError, match="'model.seed' is not an override"):
        Predictor(cfg, weights, overrides=["model.seed"])
    with pytest.raises(ValueError, match="nearest is model.max_detections_per_image"):
        Predictor(cfg, weights, overrides=["model.max_detections=7"])
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="No CUDA device .* take 'cpu'"):
            Predictor(cfg, weights, device="cuda")
        cfg.train.device = "cuda"
        assert Predictor(cfg, weights).model.device == torch.device("cpu")


def test_what_is_no_picture_is_named(predictor, picture, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    picture.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    for name in ("text.jpg", "cut.jpg"):
        with pytest.raises(ValueError, match=f"{tmp_path / name} can't be read as a picture"):
            predictor(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="No picture at .*none.jpg"):
        predictor(tmp_path / "none.jpg")


def test_too_thin_a_picture_is_refused(predictor):
    with pytest.raises(ValueError, match="5000 x 1 pixels is too thin"):
        predictor(np.zeros((1, 5000, 3), np.uint8))


def test_draw(predictor, picture):
    predictor.set_vocabulary(["a $ and a $", "cat"])
    instances = predictor(picture)
    scale = 640 / max(picture.size)  # small pictures are enlarged
    enlarged = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    assert np.array_equal(predictor.draw(picture, instances, 1.1), enlarged)
    drawn = predictor.draw(picture, instances, 0.0)
    assert drawn.size == enlarged.size and not np.array_equal(drawn, enlarged)
    assert np.array_equal(predictor.draw(picture, instances, 0.0), drawn)  # colours are fixed
    only_best = predictor.draw(picture, instances, float(instances.scores[0]))
    assert not np.array_equal(only_best, drawn) and not np.array_equal(only_best, picture)
