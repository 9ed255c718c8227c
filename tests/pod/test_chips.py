"""Chips and slices by name."""

import pytest

from pruner_jax.pod import chips


def test_a_slice_has_so_many_chips_of_its_kind():
    assert chips.find("v6e:4x8").flops == 918e12
    assert chips.size("v6e:4x8") == 32 and chips.size("v5p:2x4x4") == 32
    sizes = [chips.size(name) for name in chips.find("v4:2x2x1").slices()]
    assert sizes == sorted(sizes) and sizes[-1] == 512


@pytest.mark.parametrize("topology", ["v5e:3x3", "v5e", "v5e:2x2x1"])
def test_a_wrong_slice_is_answered_with_those_of_its_chip(topology):
    with pytest.raises(ValueError, match=r"allowed: v5e:1x1, v5e:2x2, .*v5e:16x16$"):
        chips.find(topology)


def test_a_wrong_chip_is_answered_with_all():
    with pytest.raises(ValueError, match=r"'v9:2x2'; allowed: v5e:1x1, .*; tpu7x:2x2x1, "):
        chips.find("v9:2x2")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("v5litepod-16", "v5e:4x4"), ("v6e-32", "v6e:4x8"), ("v5p-32", "v5p:2x2x4")],
)
def test_what_google_cloud_calls_a_slice_is_known(name, meant):
    with pytest.raises(ValueError, match=rf"'{name}'; you mean {meant}; allowed: v5e:1x1"):
        chips.find(name)


def test_a_slice_has_to_be_said():
    with pytest.raises(ValueError, match=r"topology is missing \(--topology=.*; allowed: v5e:1x1"):
        chips.find("")


def test_without_libtpu_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu; install 'pruner-jax\[plan\]'"):
        chips.devices("v5e:2x2")
