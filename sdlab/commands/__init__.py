"""The commands of `sdlab`, one module each.

A module holds an `EXAMPLE` and a function `command`: its parameters are the options, its docstring is the help.
`sdlab --help` imports all of these modules, so they import torch and the like inside their functions only.
"""

NAMES = ("sweep", "report", "generate", "show", "train", "export", "certify", "new", "list")
