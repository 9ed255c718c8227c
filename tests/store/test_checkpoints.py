import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax.store.checkpoints import Checkpoints


def tree(scale):
    return {"w": jnp.arange(6.0).reshape(2, 3) * scale, "step": jnp.int32(scale)}


def test_states_come_back_and_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    for position in (1, 2, 3):
        store.save(position, tree(position), {"parameters": [], "round": position, "note": "é"})
    store.close()

    store = Checkpoints(tmp_path)
    assert store.latest() == 3
    assert store.meta(3) == {"parameters": [], "round": 3, "note": "é"}
    abstract = jax.eval_shape(lambda: tree(0))
    jax.tree.map(np.testing.assert_array_equal, store.arrays(3, abstract), tree(3))
    assert store.meta(2)["round"] == 2
    with pytest.raises(FileNotFoundError):
        store.meta(1)
    store.close()


def test_named_parameters_live_as_long_as_a_state_speaks_of_them(tmp_path):
    store = Checkpoints(tmp_path)
    store.save_parameters("start", tree(1))
    store.save_parameters("candidate", tree(2))
    store.save(1, tree(0), {"parameters": ["start", "candidate"]})
    store.save(2, tree(0), {"parameters": ["start"]})
    store.wait()
    assert store.names() == {"start", "candidate"}  # state 1 is still kept
    store.save(3, tree(0), {"parameters": ["start"]})
    store.save(4, tree(0), {"parameters": ["start"]})
    assert store.names() == {"start"}
    back = store.load_parameters("start", jax.eval_shape(lambda: tree(0)))
    np.testing.assert_array_equal(back["w"], tree(1)["w"])
    with pytest.raises(ValueError, match=r"candidate.*is not there; the run has \['start'\]"):
        store.load_parameters("candidate", tree(0))
    store.close()
