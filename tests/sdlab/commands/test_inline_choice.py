"""A name with options in one argument of the command line."""

from __future__ import annotations

from math import inf

import pytest

import samplers
from sdlab.commands.inline_choice import build_choice, parse_choice
from sdlab.system.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("euler", ("euler", {})),
        ("  ddim   eta=0.5 ", ("ddim", {"eta": 0.5})),
        ("cfg_interval scale=5 sigma_high=inf", ("cfg_interval", {"scale": 5, "sigma_high": inf})),
        ("my_rules.py:Fading scale=3", ("my_rules.py:Fading", {"scale": 3})),
        ("'my rules.py:Fading' scale=1e-05", ("my rules.py:Fading", {"scale": 1e-5})),
        ('dpm_adaptive pair="12"', ("dpm_adaptive", {"pair": "12"})),
        ("x a=true b=published c='a b' d=12:30:00", ("x", {"a": True, "b": "published", "c": "a b", "d": "12:30:00"})),
        ("explicit sigmas=[14.6, 5, 1.0]", ("explicit", {"sigmas": [14.6, 5, 1.0]})),
        ('blend first={name = "karras", rho = 5.0}', ("blend", {"first": {"name": "karras", "rho": 5.0}})),
        ("x a=[1 b='2", ("x", {"a": "[1", "b": "'2"})),
    ],
)
def test_a_name_and_its_options(text: str, expected: object):
    assert parse_choice(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name, like euler, got ''"),
        ("cfg 3", "options are written key=value, without spaces; got '3' in 'cfg 3'"),
        ("cfg scale= 3", "options are written key=value, without spaces; got 'scale=' in 'cfg scale= 3'"),
        ("cfg 2x=3", "options are written key=value, without spaces; got '2x=3' in 'cfg 2x=3'"),
        ("cfg scale=3 scale=4", "option 'scale' is given twice in 'cfg scale=3 scale=4'"),
    ],
)
def test_other_forms_are_errors(text: str, message: str):
    with pytest.raises(ValueError) as caught:
        parse_choice(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddim etaa=1", "--sampler: sampler 'ddim' has no option 'etaa' (did you mean 'eta'?); it takes: eta"),
        ("ddim eta=high", "--sampler: DDIM.eta must be in [0, 1], got 'high'"),
        ("ddim name=euler", "--sampler: sampler 'ddim' has no option 'name'"),
        ("dimm", "--sampler: unknown sampler 'dimm' (did you mean 'ddim'?)"),
        ("gone.py:X", "gone.py: cannot be read: no such file or directory"),
    ],
)
def test_mistakes_name_the_option_of_the_command(text: str, message: str):
    with pytest.raises(UsageError) as caught:
        build_choice("sampler", text, samplers.make)
    assert str(caught.value).startswith(message)


def test_supplied_arguments_reach_the_builder():
    levels = samplers.discrete_levels()
    built = build_choice("grid", "karras rho=5", samplers.grid, steps=4, levels=levels)
    assert built == samplers.grid("karras", steps=4, levels=levels, rho=5)
