"""The frontier plot and the tables of a comparison, read back."""

import pytest

from pruner_jax.report.frontier import frontier
from pruner_jax.report.standings import markdown, text


def estimate(value, reach):
    return {"value": value, "low": value - reach, "high": value + reach}


def numbers(accuracy, tokens, on):
    """What compare.json says of a model."""
    return {
        "accuracy": estimate(accuracy, 0.01),
        "tokens": estimate(tokens, 1.0),
        "thinking_tokens": estimate(tokens - 5, 1.0),
        "easy_tokens": estimate(tokens / 2, 1.0),
        "hard_tokens": estimate(tokens * 2, 1.0),
        "hard_accuracy": estimate(accuracy - 0.1, 0.02),
        "adaptivity": estimate(4.0, 0.1),
        "correlation": 0.9,
        "accuracy_change": estimate(accuracy - 0.8, 0.02),
        "token_ratio": estimate(tokens / 50, 0.02),
        "aes": estimate(0.5, 0.1),
        "redundancy": {"checks": {"per_response": estimate(3, 1), "per_step": estimate(0.7, 0.1)}},
        "frontier": {"on": on, "probability": 0.9 if on else 0.2},
    }


def point(label, strength, accuracy, tokens, on=False):
    return {
        "name": f"{label}/{strength}" if strength else label,
        "label": label,
        "strength": strength,
        "seeds": [0, 1],
        "generated_tokens": 123_456.0,
        "seconds": 65.0,
        "picked_steps": {"0": [20, 40], "1": [10]},
        "alarms": {"0": [], "1": ["entropy", "entropy"]},
        "ended": {"0": None, "1": "guard entropy"},
        **numbers(accuracy, tokens, on),
    }


@pytest.fixture
def result():
    """Two sets; the methods of one lie in a heap."""
    heap = [point(f"method_{i}", None, 0.8 + i / 500, 40 + i / 10) for i in range(8)]
    ends = [point("a|b", "weak", 0.85, 45), point("a|b", "strong", 0.84, 20, on=True)]

    def one(points):
        labels = ["base", *dict.fromkeys(p["label"] for p in points)]
        return {
            "problems": 512,
            "samples": 2,
            "limit": 112,
            "difficulty": {"easy": [2.0], "hard": [6.0]},
            "base": numbers(0.8, 50, on=False),
            "points": points,
            "hypervolume": {
                "reference": {"tokens": 112, "accuracy": 0.0},
                "of": {label: estimate(0.2 + 0.01 * i, 0.01) for i, label in enumerate(labels)},
            },
        }

    effect = {"claim": "it is shorter", "of": "a|b/strong", "against": "base", "expect": "less"}
    found = {"difference": estimate(-0.03, 0.01), "holds": "yes", "measure": "hard_accuracy"}
    found["within"] = 0.01
    return {
        "sets": {"noisy": one(heap + ends), "clean": one(ends)},
        "effects": [effect | found | {"set": "noisy"}],
        "confidence": 0.95,
        "resamples": 2000,
        "runs": [{"generated_tokens": 1e6, "seconds": 300.0}] * 24,
        "planned": 25,
        "failed": [{"run": "noisy/c-seed1", "error": "it cannot"}],
        "settings": {"entries": [{"label": f"method_{i}"} for i in range(8)] + [{"label": "a|b"}]},
    }


def test_every_point_is_a_dot_with_a_cross_and_every_method_a_name(result, drawing):
    found = drawing(frontier(result).replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert len(found.marks("circle", "method")) == (8 + 2 + 1) + (2 + 1)
    assert len(found.marks("line", "cross")) == 2 * 14
    assert len(found.marks("circle", "weak")) == 2 and len(found.marks("path", "stairs")) == 2
    assert {"noisy: 512 problems, limit 112 tokens", "base model", "a|b"} <= set(found.texts())
    assert found.texts().count("method_3") == 1


def test_names_do_not_cover_dots_or_each_other(result, drawing):
    found = drawing(frontier(result).replace('xmlns="http://www.w3.org/2000/svg"', ""))
    panel = next(found.root.iter("g"))
    boxes = [(float(c.get("cx")), float(c.get("cy"))) * 2 for c in panel.iter("circle")]
    boxes = [(x - 4, y - 4, u + 4, v + 4) for x, y, u, v in boxes]
    for label in (t for t in panel.iter("text") if "label" in t.get("class", "")):
        width = 6.3 * len(label.text)
        left = (
            float(label.get("x"))
            - width * {"start": 0, "middle": 0.5, "end": 1}[label.get("text-anchor")]
        )
        y = float(label.get("y"))
        box = (left, y - 9, left + width, y)
        assert not [
            b for b in boxes if b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3]
        ]
        boxes.append(box)


def test_fewer_tokens_are_to_the_left_and_better_is_up(result, drawing):
    found = drawing(frontier(result).replace('xmlns="http://www.w3.org/2000/svg"', ""))
    dots = {
        c[0].text: (float(c.get("cx")), float(c.get("cy"))) for c in found.marks("circle", "method")
    }
    weak = dots["a|b/weak: 85.0 %, 45.0 tokens"]
    strong = dots["a|b/strong: 84.0 %, 20.0 tokens"]
    assert strong[0] < weak[0] and strong[1] > weak[1]


def test_the_page_has_every_table(result):
    page = markdown(result)
    assert "24 of 25 runs are finished, 1 failed. Together they generated 24,000,000" in page
    assert "tokens and trained for 2 h 00 min." in page
    assert "512 test problems, 2 samples each, limit 112" in page
    assert "| a\\|b/strong | 2 | 84.0 % (83.0 % to 85.0 %) | +4.0 (+2.0 to +6.0) |" in page
    assert "| **90 %** |" in page and "| 20 % |" in page
    assert "| 123,456 | 1 min 05 s | 20/40, 10 | seed 1: entropy, guard entropy |" in page
    assert (
        "| it is shorter | noisy | a\\|b/strong | base | hard accuracy, points | −3.0 (−4.0 to"
        in page
    )
    assert "- `noisy/c-seed1`: it cannot" in page
    first = page.index("| method_7 | 0.28"), page.index("| base model | 0.20")
    assert first[0] < first[1]  # the largest hypervolume first


def test_the_terminal_has_the_main_numbers(result):
    shown = text(result)
    assert shown.endswith("24 of 25 runs are finished, 1 failed.\nfailed: noisy/c-seed1: it cannot")
    assert "84.0 % ±1.0 %" in shown and "*90 %" in shown
    assert "−3.0 ±1.0, +1.0 allowed" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_nothing_finished_nothing_shown(result):
    empty = result | {"sets": {}, "effects": [], "runs": []}
    assert frontier(empty).startswith("<svg ")
    assert "0 of 25 runs" in markdown(empty) and "0 of 25 runs" in text(empty)
