"""The commands of `sdlab`, one module each.

Each module has an `EXAMPLE` and a function `command`. Its parameters are the options, its docstring is the help text.
`sdlab --help` imports all of these modules, so they import heavy packages such as torch inside functions only.
"""

NAMES = ("sweep", "report", "generate", "show", "train", "export", "certify", "new", "list")
