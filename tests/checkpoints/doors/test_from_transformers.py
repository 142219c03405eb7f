import json
import sys

import pytest
import safetensors.torch
import torch
import transformers

from carp_eval.checkpoints import opening
from carp_eval.errors import CheckpointError, UsageError
from tests.checkpoints import pretend

TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
VIT = {**TOKENS, "intermediate_size": 64}
MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]


def made(kind, config):
    return pretend.trained(kind(config))


def saved(network, folder, **processor):
    network.save_pretrained(folder)
    told = {
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": 40},
        "crop_size": 32,
        "do_center_crop": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told | processor))
    return folder


def outputs(network, **more):
    with torch.inference_mode():
        return network(pixel_values=pretend.images(32), **more)


def opened(folder):
    model = opening.open_model(f"hf:{folder}")
    return model, pretend.features(model.network, pretend.images(32))


def test_a_convolutional_network_gives_its_pooler_output_flat(tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    theirs = made(transformers.ResNetModel, config)
    model, features = opened(saved(theirs, tmp_path))
    assert torch.equal(features, outputs(theirs).pooler_output.squeeze())
    assert (model.feature_dim, model.input.native_size) == (16, 32)
    assert (model.input.mean, model.input.std) == (tuple(MEAN), tuple(STD))
    assert any("pooler_output" in note for note in model.notes)


def test_dinov2_gives_its_pooler_output_which_is_the_class_token(tmp_path):
    theirs = made(transformers.Dinov2Model, transformers.Dinov2Config(**TOKENS))
    _, features = opened(saved(theirs, tmp_path))
    assert torch.equal(features, outputs(theirs).pooler_output)
    assert torch.equal(features, outputs(theirs).last_hidden_state[:, 0])


def test_a_pooler_that_was_never_trained_is_left_out_for_the_class_token(tmp_path):
    theirs = made(transformers.ViTForImageClassification, transformers.ViTConfig(**VIT))
    model, features = opened(saved(theirs, tmp_path))
    assert torch.equal(features, outputs(theirs.vit).last_hidden_state[:, 0])
    assert any("class token" in note for note in model.notes)


def test_a_masked_autoencoder_sees_the_whole_image_always_alike(tmp_path):
    theirs = made(transformers.ViTMAEModel, transformers.ViTMAEConfig(**VIT))
    model, features = opened(saved(theirs, tmp_path))
    again = pretend.features(model.network, pretend.images(32))
    theirs.config.mask_ratio = 0.0
    torch.testing.assert_close(features, outputs(theirs).last_hidden_state[:, 0], rtol=0, atol=1e-5)
    assert torch.equal(features, again)


def test_without_class_token_or_pooler_the_mean_is_taken(tmp_path):
    tokens = made(transformers.IJepaModel, transformers.IJepaConfig(**VIT))
    _, features = opened(saved(tokens, tmp_path / "tokens"))
    torch.testing.assert_close(features, outputs(tokens).last_hidden_state.mean(dim=1))
    sides = {"hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    maps = made(transformers.SegformerModel, transformers.SegformerConfig(**sides))
    _, features = opened(saved(maps, tmp_path / "maps"))
    torch.testing.assert_close(features, outputs(maps).last_hidden_state.mean(dim=(2, 3)))


def test_of_images_and_words_the_images_part_is_taken(tmp_path):
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "bos_token_id": 0,
            "eos_token_id": 1}  # fmt: skip
    config = transformers.CLIPConfig(vision_config=VIT, text_config=text, projection_dim=16)
    theirs = made(transformers.CLIPModel, config)
    model, features = opened(saved(theirs, tmp_path))
    with torch.inference_mode():
        seen = theirs.vision_model(pixel_values=pretend.images(32)).pooler_output
        expected = theirs.visual_projection(seen)
    torch.testing.assert_close(features, expected)
    assert model.feature_dim == 16


def test_a_network_of_words_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=10
    )
    made(transformers.BertModel, config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="takes no images"):
        opening.open_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("change", ["prefix", "one missing", "another shape"])
def test_weights_that_are_not_the_networks_are_refused_and_listed(tmp_path, change):
    folder = saved(made(transformers.Dinov2Model, transformers.Dinov2Config(**TOKENS)), tmp_path)
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    name = "encoder.layer.0.norm1.weight"
    if change == "prefix":
        state = {f"wrapped.{key}": value for key, value in state.items()}
    elif change == "one missing":
        del state[name]
    else:
        state[name] = torch.ones(5)
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"does not fill|cannot open") as caught:
        opening.open_model(f"hf:{folder}")
    if change == "one missing":
        assert f"missing: {name}" in str(caught.value)


def test_the_input_is_read_as_it_was_written(tmp_path):
    theirs = made(transformers.Dinov2Model, transformers.Dinov2Config(**TOKENS))
    plain, _ = opened(saved(theirs, tmp_path / "a", do_normalize=False, do_center_crop=False))
    assert (plain.input.mean, plain.input.std, plain.input.native_size) == ((0.0,) * 3, (1.0,) * 3, 32)
    with pytest.raises(UsageError, match=r"otherwise than to \[0, 1\]"):
        opening.open_model(f"hf:{saved(theirs, tmp_path / 'b', rescale_factor=1 / 127.5)}")
    folder = saved(theirs, tmp_path / "c")
    (folder / "preprocessor_config.json").unlink()
    silent, _ = opened(folder)
    assert silent.input.mean == (0.485, 0.456, 0.406)
    assert any("ImageNet's mean" in note for note in silent.notes)


def test_the_same_weights_with_other_heads_are_another_model(tmp_path):
    theirs = made(transformers.Dinov2Model, transformers.Dinov2Config(**TOKENS))
    first, _ = opened(saved(theirs, tmp_path / "a"))
    folder = saved(theirs, tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    # Entries and shapes are those of two heads.
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    other, _ = opened(folder)
    assert other.weights_sha256 != first.weights_sha256
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert opened(folder)[0].weights_sha256 == first.weights_sha256


def test_code_that_comes_along_is_not_run(tmp_path):
    folder = saved(made(transformers.Dinov2Model, transformers.Dinov2Config(**TOKENS)), tmp_path)
    trace = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    own = {
        "model_type": "own",
        "auto_map": {"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Config"},
    }
    (folder / "config.json").write_text(json.dumps(own))
    with pytest.raises(CheckpointError, match="Code that comes with a model is not run"):
        opening.open_model(f"hf:{folder}")
    assert not trace.exists()


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'carp-eval\[transformers\]'"):
        opening.open_model(f"hf:{tmp_path}")
