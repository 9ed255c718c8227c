"""What has to be the same on all hosts."""

import pytest

from pruner_jax.config import PruneConfig, load
from pruner_jax.pod.likeness import LIKE, likeness
from pruner_jax.pod.together import Pod, Unlike


def of(out):
    return likeness(load(PruneConfig, None, ["--model=m", f"--out={out}"]))


def test_an_address_is_the_same_on_all_hosts_a_path_need_not_be():
    assert of("a") == of("/b/a") and of("gs://b/a") == of("gs://b/a")
    pod = Pod(0, 2, watch=object())
    for first, second in (("gs://b/a", "a"), ("gs://b/a", "gs://b/c")):
        pod.gather = lambda value, at, other=second: [value, of(other)]
        with pytest.raises(Unlike, match=r'out is "gs://b/a" on process 0 and .* on process 1'):
            pod.agree("the hosts' settings", lambda out=first: of(out), LIKE)
