import json
import math
from collections import Counter

import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip.clip import _transform
from PIL import Image

from gridclip.clip_weights import load_clip
from gridclip.files import sha256_of_file
from laptop_world import pretrain_clip as script
from laptop_world import small_clip
from laptop_world.shapes import CaptionedShapes


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    sizes = {**script.SIZES, "vision_width": 8, "image_resolution": 32, "embed_dim": 16}
    for module in (script, small_clip):
        monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(script, "SAVE_PERIOD", 2)


def arguments(path, epochs=2):
    numbers = f"--pairs 8 --epochs {epochs} --batch-size 4 --val 6 --num-workers 0"
    return ["--output", str(path), *numbers.split()]


def test_writes_openais_format_and_how_it_was_made(tmp_path):
    path = tmp_path / "small.safetensors"
    script.main(arguments(path))
    model, checkpoint = load_clip(path)
    assert (model.visual.input_resolution, model.visual.output_dim) == (32, 16)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of_file(path) == checkpoint.sha256
    assert record["pairs_seen"] == 16 and str(tmp_path) not in json.dumps(record)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "small.json"}


def test_resumes_as_if_it_had_not_been_killed(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    with torch.backends.mkldnn.flags(enabled=False):  # its sums depend on where memory lies
        script.main(arguments(whole))
        real, calls = script.contrastive_loss, []

        def killed(*args):
            calls.append(args)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(script, "contrastive_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            script.main(arguments(cut))
        monkeypatch.setattr(script, "contrastive_loss", real)
        with pytest.raises(SystemExit, match=r"partial\.pth"):
            script.main(arguments(cut, epochs=3))
        script.main(arguments(cut))
    assert whole.read_bytes() == cut.read_bytes()


def test_loss_is_open_clips_where_all_names_differ():
    image, text = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    scale = torch.tensor(2.0)
    expected = open_clip.ClipLoss()(image, text, scale.exp())
    loss = script.contrastive_loss(image, text, torch.arange(5), scale)
    torch.testing.assert_close(loss, expected)


def test_pairs_of_the_same_names_do_not_compete():
    image, text = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    scale, names = torch.tensor(1.0), torch.tensor([3, 1, 3, 2])
    losses = []
    for vectors, others in ((image, text), (text, image)):
        for i in range(4):
            rivals = [j for j in range(4) if j == i or names[j] != names[i]]
            logits = scale.exp() * vectors[i] @ others[rivals].T
            losses.append(-logits.log_softmax(dim=0)[rivals.index(i)])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(script.contrastive_loss(image, text, names, scale), expected)


def test_batches_hold_each_pair_once_an_epoch(tmp_path):
    args = script.argument_parser().parse_args(arguments(tmp_path / "x.safetensors"))
    pairs = script.Pairs(args)
    pairs.names = torch.arange(8)
    epochs = [torch.cat([pairs.batch(0, e, i, 4)[2] for i in range(2)]).tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    inputs, tokens, names, words = pairs.batch(0, 0, 0, 4)
    for row, pair in zip(inputs, names.tolist(), strict=True):
        plain = script.to_inputs(pairs.pictures[pair][None])[0]
        assert torch.equal(row, plain) or torch.equal(row, plain.flip(2))
    assert torch.equal(tokens, pairs.tokens[names]) and torch.equal(words, pairs.words[names])


def test_word_loss_is_least_for_the_captions_words():
    words = torch.zeros(1, len(script.WORDS))
    words[0, [0, 7]] = torch.tensor([1.0, 3.0])
    expected = torch.distributions.Categorical(torch.tensor([0.25, 0.75])).entropy()
    best = torch.full_like(words, -50.0)
    best[0, [0, 7]] = torch.tensor([0.25, 0.75]).log()
    torch.testing.assert_close(script.word_loss(best, words), expected)
    uniform = script.word_loss(torch.zeros_like(words), words)
    assert uniform.item() == pytest.approx(math.log(len(script.WORDS)))


def test_inputs_are_those_of_clips_own_preprocessing():
    picture, _ = CaptionedShapes(1, 32)[0]
    expected = _transform(32)(Image.fromarray(picture))
    torch.testing.assert_close(script.to_inputs(torch.from_numpy(picture)[None])[0], expected)


def test_captions_fit_and_their_names_are_read_back(tmp_path):
    args = script.argument_parser().parse_args(arguments(tmp_path / "x.safetensors"))
    args.pairs = 200
    pairs = script.Pairs(args)
    assert (pairs.tokens == 49407).sum(dim=1).eq(1).all()  # every caption's end is there
    drawn = CaptionedShapes(200, 32)
    kinds = {}
    expected = [
        kinds.setdefault(tuple(sorted(map(str, drawn.names(i)))), len(kinds)) for i in range(200)
    ]
    assert pairs.names.tolist() == expected
    for i in range(200):
        spoken = Counter(word for name in drawn.names(i) for word in name)
        assert pairs.words[i].tolist() == [spoken[word] for word in script.WORDS]


def test_refuses_sizes_that_do_not_divide(tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([*arguments(tmp_path / "x.safetensors"), "--pairs", "9"])
    assert "multiple" in capsys.readouterr().err
