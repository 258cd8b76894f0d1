"""A name with options in one argument of the command line."""

from __future__ import annotations

from math import inf

import pytest

import samplers
from sdlab.commands.inline_choice import build_choice, parse_choice
from sdlab.sweep.axes import GUIDANCE, SAMPLER, grids
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
        ("ddim:eta=0.5", ("ddim", {"eta": 0.5})),
        ("apg:eta=0,norm=2.5", ("apg", {"eta": 0, "norm": 2.5})),
        (
            "cfg:scale=4,interval=[0.3, 5.0] schedule=linear",
            (
                "cfg",
                {"scale": 4, "interval": [0.3, 5.0], "schedule": "linear"},
            ),
        ),
        ("x:a='b,c=d',e=[[1, 2], [3, 4]]", ("x", {"a": "b,c=d", "e": [[1, 2], [3, 4]]})),
        ("my_rules.py:Fading:scale=3,low=1", ("my_rules.py:Fading", {"scale": 3, "low": 1})),
        ("'my rules.py:Fading:scale=3'", ("my rules.py:Fading", {"scale": 3})),
        ("x a=[1 b='2", ("x", {"a": "[1", "b": "'2"})),
    ],
)
def test_a_name_and_its_options(text: str, expected: object):
    assert parse_choice(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name, like euler, got ''"),
        (
            '["interval","apg"]',
            'expected a name, with wrappers as options like cfg:interval=[0.3,5], got \'["interval","apg"]\'',
        ),
        ("cfg 3", "options are written key=value, without spaces; got '3' in 'cfg 3'"),
        ("cfg:3", "options are written key=value, without spaces; got '3' in 'cfg:3'"),
        ("cfg:scale=3 scale=4", "option 'scale' is given twice in 'cfg:scale=3 scale=4'"),
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
        ("DPM++ 2M Karras", "--sampler: unknown sampler 'DPM++ 2M Karras'; known: "),
        ("ddim 5", "--sampler: options are written key=value, without spaces; got '5' in 'ddim 5'"),
        ("my sampler.py:S", "--sampler: options are written key=value, without spaces; got 'sampler.py:S' in 'my "),
        ("ddim etaa=1", "--sampler: etaa: unknown option of ddim (did you mean 'eta'?); it takes: eta"),
        ("ddim eta=high", "--sampler: eta: should be a number, got 'high'"),
        ("ddim eta=2", "--sampler: eta: must be in [0, 1], got 2"),
        ("ddim:eta=" + "9" * 5000, f"--sampler: eta: should be a number, got '{'9' * 199}…"),
        ("ddim:eta=" + "[" * 3000 + "]" * 3000, f"--sampler: eta: should be a number, got '{'[' * 199}…"),
        ("ddim name=euler", "--sampler: name: unknown option of ddim; it takes: eta"),
        ("dimm", "--sampler: unknown sampler 'dimm' (did you mean 'ddim'?)"),
        ("gone.py:X", "--sampler: gone.py: no such file or directory"),
    ],
)
def test_mistakes_name_the_option_of_the_command(text: str, message: str):
    with pytest.raises(UsageError) as caught:
        build_choice(SAMPLER, text)
    assert str(caught.value).startswith(message)


def test_supplied_arguments_reach_the_builder():
    levels = samplers.discrete_levels()
    built = build_choice(grids(levels), "karras rho=5", steps=4, levels=levels)
    assert built == samplers.grid("karras", steps=4, levels=levels, rho=5)
    with pytest.raises(UsageError, match=r"^--grid: steps: unknown option of karras; it takes: "):
        build_choice(grids(levels), "karras steps=3", steps=4, levels=levels)


def test_every_mistake_is_one_line():
    with pytest.raises(UsageError) as caught:
        build_choice(GUIDANCE, "cfg_interval scael=3 sigma_low=low")
    assert [line.partition(": ")[2].partition(": ")[0] for line in caught.value.lines] == ["scael", "sigma_low"]
