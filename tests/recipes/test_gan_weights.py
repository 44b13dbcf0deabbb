"""First weights of the GANs: junyanz's files, of old versions and with dropout, and checkpoints of this package."""

from __future__ import annotations

import pytest
import torch
from known_weights import fill
from safetensors.torch import save_file

from airank_fast.errors import UserError
from airank_fast.models.cyclegan import ResNetGenerator
from airank_fast.models.gan_layers import PatchGAN
from airank_fast.models.pix2pix import UNet
from airank_fast.recipes.gan_weights import files_of, load_all


def generator(**options) -> ResNetGenerator:
    return ResNetGenerator(width=4, blocks=2, **options)


def assert_equal(network, expected) -> None:
    state = network.state_dict()
    assert len(state) == len(expected)
    assert all(torch.equal(tensor, other) for tensor, other in zip(state.values(), expected.values(), strict=True))


@pytest.mark.parametrize(("of_file", "dropout"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)])
def test_a_file_of_an_old_version_with_or_without_dropout(tmp_path, of_file, dropout):
    """DataParallel's prefix; running statistics of instance norms; the number of a block's second convolution."""
    source = fill(generator(dropout=of_file))
    weights = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    norms = [name for name, module in source.named_modules() if isinstance(module, torch.nn.InstanceNorm2d)]
    for name in norms:
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            weights[f"module.{name}.{statistic}"] = torch.zeros(())
    torch.save(weights, tmp_path / "latest_net_G.pth")
    network = generator(dropout=dropout)
    notes = load_all({"G": network}, tmp_path)
    assert_equal(network, source.state_dict())
    what = f"left out are the running statistics of {len(norms)} instance norms, which have none here"
    assert notes == [f"--init-checkpoint {tmp_path / 'latest_net_G.pth'}: {what}"]


def test_batch_norms_keep_their_statistics(tmp_path):
    source = fill(UNet(width=2, levels=5))
    torch.save(source.state_dict(), tmp_path / "latest_net_G.pth")
    network = UNet(width=2, levels=5)
    assert load_all({"G": network}, tmp_path) == []
    assert_equal(network, source.state_dict())


def test_a_checkpoint_of_a_run_and_a_missing_discriminator(tmp_path):
    source = fill(generator())
    for name in ("G_A", "G_B"):
        save_file(source.state_dict(), tmp_path / f"{name}.safetensors")
    networks = {"G_A": generator(), "G_B": generator(), "D_A": PatchGAN(3, 4, norm="instance")}
    notes = load_all(networks, tmp_path)
    assert_equal(networks["G_B"], source.state_dict())
    assert notes == [f"--init-checkpoint {tmp_path}: has no weights of D_A, which begins with random ones"]


def test_which_file_is_taken(tmp_path):
    with pytest.raises(UserError, match=r"must have latest_net_G.pth or G.safetensors, got none"):
        files_of(tmp_path, ["G", "D"])
    (tmp_path / "100_net_G.pth").touch()
    assert files_of(tmp_path, ["G"]) == {"G": tmp_path / "100_net_G.pth"}
    (tmp_path / "200_net_G.pth").touch()
    with pytest.raises(UserError, match=r"one file of the network G, got 100_net_G.pth, 200_net_G.pth"):
        files_of(tmp_path, ["G"])
    (tmp_path / "latest_net_G.pth").touch()
    assert files_of(tmp_path, ["G"]) == {"G": tmp_path / "latest_net_G.pth"}
    with pytest.raises(UserError, match=r"nowhere: must be a directory with latest_net_G.pth .*, got no directory"):
        files_of(tmp_path / "nowhere", ["G"])


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(ResNetGenerator(width=4, blocks=3).state_dict(), tmp_path / "latest_net_G.pth")
    with pytest.raises(
        UserError, match=r"latest_net_G.pth: must have weights of this model: model.12.weight is missing"
    ):
        load_all({"G": generator()}, tmp_path)
