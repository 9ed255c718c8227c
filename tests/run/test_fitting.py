"""The search for the largest that fits."""

from pruner_jax.run.fitting import TRIES, largest


def tried(total):
    seen = []

    def note(n):
        seen.append(n)
        return total(n)

    return note, seen


def test_along_a_line_a_few_tries_find_it():
    total, seen = tried(lambda n: 100 + 7 * n)
    assert largest(total, 1000, 4096) == (128, 129)  # 7 * 128 = 896
    assert len(seen) <= TRIES
    total, seen = tried(lambda n: 100 + 7 * n)
    assert largest(total, 1000, 4096, {1: 107, 2: 114}) == (128, 129)
    assert seen == [128, 129]


def test_what_the_compiler_refuses_does_not_fit_and_has_no_size():
    total, seen = tried(lambda n: 100 * n if n < 13 else None)
    low, high = largest(total, 5000, 64)
    assert low < high and low <= 12 and high >= 13
    assert low == max(n for n in seen if n < 13) and high == min(n for n in seen if n >= 13)


def test_the_ends():
    assert largest(lambda n: 10, 9, 4) == (0, 1)
    assert largest(lambda n: 10 * n, 40, 4) == (4, 5)
    assert largest(lambda n: 10 * n, 40, 4, {2: 20, 4: 40}) == (4, 5)
    assert largest(lambda n: None, 40, 4, {2: None}) == (0, 1)
