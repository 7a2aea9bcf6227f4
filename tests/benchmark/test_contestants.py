from benchmark.contestants import fcos_like, from_config, lvis_faster_rcnn, post_processing
from benchmark.roster import ONE_X, VILD


def test_fcos_differs_from_gridclip_in_its_classes_alone():
    fcos, gridclip = fcos_like(ONE_X), from_config(ONE_X)
    assert fcos.num_classes == gridclip.num_classes == fcos.head.cls_score.out_channels == 1203
    settings = {**post_processing(gridclip), "test_score_thresh": 0.01}
    assert post_processing(fcos) == settings
    for ours, theirs in (
        (gridclip.backbone, fcos.backbone),
        (gridclip.head.cls_subnet, fcos.head.cls_subnet),
        (gridclip.head.bbox_subnet, fcos.head.bbox_subnet),
    ):
        shapes = [
            {name: tuple(x.shape) for name, x in part.state_dict().items()}
            for part in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]
        frozen = [[p.requires_grad for p in part.parameters()] for part in (ours, theirs)]
        assert frozen[0] == frozen[1]


def test_annotations_need_not_be_there(monkeypatch, tmp_path):
    """Only what the speed depends on is that of LVIS: how many categories, how many of them novel,
    and that the sampling of categories has weights to draw by."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert from_config(VILD).classifier.is_novel.sum() == 337
    assert (from_config(ONE_X).federated_weights > 0).sum() >= 1203 - 337


def test_faster_rcnn_is_lviss_without_masks():
    model = lvis_faster_rcnn()
    assert not model.roi_heads.mask_on
    assert model.roi_heads.box_predictor.cls_score.out_features == 1204
    assert post_processing(model) == {
        "proposals": 1000,
        "test_score_thresh": 1e-4,
        "test_nms_thresh": 0.5,
        "test_topk_per_image": 300,
    }
