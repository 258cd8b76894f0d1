"""The commands of `sdlab`, one module each; `plan-size` is the module `plan_size`.

Each module has an `EXAMPLE` and a function `command`. Its parameters are the options, its docstring is the help text.
`sdlab --help` imports all of these modules, so they import heavy packages such as torch inside functions only.
"""

NAMES = (
    "sweep",
    "search",
    "grid",
    "statistics",
    "merge",
    "report",
    "compare",
    "cite",
    "plan-size",
    "evaluate",
    "generate",
    "show",
    "diff",
    "train",
    "export",
    "bench",
    "certify",
    "new",
    "list",
)
