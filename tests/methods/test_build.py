"""From a configuration to a composition: names, options, slots laid over, and clear errors."""

import dataclasses

import pytest
from handmade import Row, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions, build
from pruner_jax.objective.advantage import Decoupled, Fused, Norm
from pruner_jax.objective.condition import Begin, EndThought
from pruner_jax.objective.context import Context
from pruner_jax.objective.kernels import Clipped, Sigmoid, Step
from pruner_jax.objective.length import Gate, Length
from pruner_jax.objective.merge import TopDelta
from pruner_jax.objective.method import Method, Phase
from pruner_jax.objective.schedules import Ramp
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh


def phase_of(*, name="grpo", **slots):
    return build(MethodOptions(name, {}, slots)).phases[0]


def test_fields_of_the_slot_that_is_there():
    phase = phase_of(loss={"clip_high": 0.28}, collect={"samples": 4}, advantage={"scale": "none"})
    assert phase.loss.clip_high == 0.28 and phase.loss.clip_low == 0.2
    assert phase.collect.samples == 4
    assert phase.advantage == Fused(norm=Norm(baseline="group", scale="none"))


def test_a_new_slot_names_its_kind():
    norm = {"baseline": "group", "scale": "batch"}
    phase = phase_of(advantage={"kind": "decoupled", "task": norm, "length": norm, "beta": 0.5})
    assert phase.advantage == Decoupled(task=Norm(**norm), length=Norm(**norm), beta=0.5)
    assert phase_of(advantage={"kind": "fused", **norm}).advantage == Fused(norm=Norm(**norm))


TLMRE = {
    "kind": "sigmoid",
    "weight": 0.1,
    "target": {"kind": "stat", "reduce": "mean", "over": "correct", "empty": None},
    "gate": {"wrong": [float("-inf"), 0]},
}


def test_a_list_of_length_terms():
    phase = phase_of(length=[TLMRE, {"kind": "clipped", "offset": 0.0, "scale": 100}])
    assert phase.length == (
        Length(
            kernel=Sigmoid(),
            weight=0.1,
            target=Stat(reduce="mean", over="correct", empty=None),
            gate=Gate(wrong=(float("-inf"), 0)),
        ),
        Length(kernel=Clipped(offset=0.0), scale=100.0),
    )


def test_dotted_words_reach_into_what_the_file_gave(tmp_path):
    """--method.length.weight=0.2 and --method.length.0.kind=step on a method with a length term."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\n"
        "from pruner_jax import methods\n"
        "from pruner_jax.methods import MethodOptions\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Options:\n"
        "    weight: float = 0.1\n"
        "def compose(options):\n"
        "    term = {'kind': 'sigmoid', 'weight': options.weight, 'target': 7.0}\n"
        "    return methods.build(MethodOptions('grpo', slots={'length': [term]}))\n"
    )
    made = build(MethodOptions(str(file), {"weight": 0.3}, {}))
    assert made.phases[0].length[0].weight == 0.3
    one = build(MethodOptions(str(file), {}, {"length": {"weight": 0.2}})).phases[0].length
    assert one == (Length(kernel=Sigmoid(), weight=0.2, target=7.0),)
    step = {"length": {"0": {"kind": "step", "above": True}}}
    assert build(MethodOptions(str(file), {}, step)).phases[0].length == (
        Length(kernel=Step(above=True), weight=0.1, target=7.0),
    )
    ramp = {"kind": "ramp", "start": 0, "end": 1, "length": 50}
    scheduled = build(MethodOptions(str(file), {}, {"length": {"weight": ramp}}))
    assert scheduled.phases[0].length[0].weight == Ramp(0.0, 1.0, 50)


def test_a_slot_of_ones_own_is_any_frozen_dataclass_called_alike(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import dataclasses\n"
        "from pruner_jax import methods\n"
        "from pruner_jax.objective.length import Length\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Cubic:\n"
        "    strength: float = 1.0\n"
        "    def __call__(self, u):\n"
        "        return -self.strength * u**3\n"
        "Options = dataclasses.make_dataclass('Options', [], frozen=True)\n"
        "def compose(options):\n"
        "    method = methods.load('grpo', {'samples': 2})\n"
        "    length = (Length(kernel=Cubic(), scale=10.0),)\n"
        "    phase = dataclasses.replace(method.phases[0], length=length)\n"
        "    return dataclasses.replace(method, name='own', phases=(phase,))\n"
    )
    slots = {"length": {"strength": 0.5}, "advantage": {"baseline": "none", "scale": "none"}}
    (phase,) = build(MethodOptions(str(file), {}, slots)).phases
    weighted, _, _ = weigh(phase, graded([Row(20, True), Row(10)]), {}, Context(limit=50))
    assert weights(weighted).tolist() == [1 - 0.5 * 2**3, 0.0]


def test_flat_settings_as_yaml_has_them():
    settings = {"name": "grpo", "options": {"samples": 4}, "advantage": {"scale": "none"}}
    assert MethodOptions.of(settings) == MethodOptions(
        "grpo", {"samples": 4}, {"advantage": {"scale": "none"}}
    )


def test_merge_is_a_slot_of_the_method():
    method = build(MethodOptions("grpo", slots={"merge": {"kind": "top_delta", "share": 0.1}}))
    assert method.merge == TopDelta(share=0.1)


def test_several_training_phases_are_addressed_by_name(tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "import dataclasses\n"
        "from pruner_jax import methods\n"
        "from pruner_jax.objective.method import Method\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Options:\n"
        "    pass\n"
        "def compose(options):\n"
        "    (phase,) = methods.load('grpo').phases\n"
        "    second = dataclasses.replace(phase, name='second')\n"
        "    return Method(name='two', phases=(phase, second))\n"
    )
    with pytest.raises(
        ValueError, match=r"several training phases; say which, e\.g\. method\.prune"
    ):
        build(MethodOptions(str(file), {}, {"loss": {"epochs": 2}}))
    made = build(MethodOptions(str(file), {}, {"second": {"loss": {"epochs": 2}}}))
    assert [phase.loss.epochs for phase in made.phases] == [1, 2]


KIND = {"length": [{"kind": "sigmod"}]}
FIELD = {"length": [{"kind": "sigmoid", "above": True}]}
TYPE = {"collect": {"samples": 2.5}}


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"lenght": 1}, r"method\.lenght is unknown; allowed: name, options, collect, .*, prune"),
        (KIND, r"method\.length\.0\.kernel\.kind is 'sigmod'; allowed: one, linear, .*, log"),
        (FIELD, r"method\.length\.0\.above is unknown; allowed: weight, target, .*, kind"),
        ({"length": [{"weight": 1.0}]}, r"method\.length\.0 \(length\) lacks kernel"),
        (
            {"length": {"weight": 1.0}},
            r"method\.length\.weight overrides the single entry.*nothing",
        ),
        ({"length": {"kind": "step"}}, r"or give a whole list, \[\{\.\.\.\}\]"),
        ({"length": {"2": {"weight": 1.0}}}, r"method\.length\.2 does not exist; the list has 0"),
        ({"length": 3}, r"method\.length is 3; allowed: a list"),
        ({"advantage": {"kind": "fuse"}}, r"kind is 'fuse'; allowed: fused, decoupled, uniform"),
        ({"advantage": {"kind": "fused", "baseline": "group"}}, r"norm\) lacks scale"),
        ({"advantage": {"scale": "std"}}, r"norm\.scale is 'std'; allowed: 'none', 'group'"),
        ({"task": {"correct": "yes"}}, r"method\.task\.correct is 'yes'; allowed: a number"),
        (TYPE, r"method\.collect\.samples is 2\.5; allowed: a whole number"),
        ({"collect": {"samples": True}}, r"allowed: a whole number"),
        ({"loss": {"clip_low": 3.0}}, r"method\.loss: loss\.clip_low is 3\.0; allowed: above 0"),
        ({"condition": {"budget": {"low": 9, "high": 4}}}, r"method\.condition\.budget: uniform_b"),
        ({"select": [{"kind": "top_k", "k": 2}]}, r"method\.select\.0 \(top_k\) lacks by"),
        ({"prune": 3}, r"method\.prune is 3; allowed: slots of that phase"),
        ({"length": [{"kind": "step", "gate": {"wrong": [0]}}]}, r"wrong is \[0\]; allowed: 2"),
    ],
    ids=str,
)
def test_errors_name_the_field_what_was_found_and_what_is_allowed(slots, message):
    with pytest.raises(ValueError, match=message):
        build(MethodOptions("grpo", {}, slots))


def test_unknown_methods_and_options():
    with pytest.raises(ValueError, match=r"method\.name is 'grop'; allowed: .*grpo.*thinkprune, "):
        methods.load("grop")
    with pytest.raises(ValueError, match=r"method\.options\.sample is unknown; allowed: samples"):
        methods.load("grpo", {"sample": 4})
    with pytest.raises(ValueError, match=r"method\.options\.samples is '4'; allowed: a whole"):
        methods.load("grpo", {"samples": "4"})


def test_a_file_without_the_two_parts_is_refused(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("Options = dict\n")
    with pytest.raises(ValueError, match="lacks 'compose'"):
        methods.load(str(file))


@pytest.mark.parametrize("name", methods.available())
def test_methods_are_values(name):
    """Equal when loaded twice, all slots frozen; the file's name is the method's name."""
    method = methods.load(name)
    assert isinstance(method, Method) and method == methods.load(name)
    assert method.name == name
    for phase in method.phases:
        assert isinstance(phase, Phase) and hash(phase) == hash(dataclasses.replace(phase))


def test_conditions_from_plain_data():
    modes = [
        {"name": "think", "share": 0.5},
        {"name": "not", "share": 0.5, "force": {"kind": "begin", "text": "</think>", "logp": -0.7}},
    ]
    force = {"kind": "end_thought", "after": 100}
    condition = phase_of(condition={"modes": modes, "force": force}).condition
    assert condition.modes[1].force == Begin(text="</think>", logp=-0.7)
    assert condition.modes[0].force is None and condition.force == EndThought(after=100)
    assert phase_of(name="elastic", condition={"force": None}).condition.force is None
    with pytest.raises(ValueError, match=r"force \(begin\) lacks text; there is no default"):
        phase_of(condition={"force": {"kind": "begin"}})
    with pytest.raises(ValueError, match=r"force\.kind is 'end'; allowed: begin, end_thought"):
        phase_of(condition={"force": {"kind": "end"}})
