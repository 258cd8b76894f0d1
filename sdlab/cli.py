"""The entry point of `sdlab`: prints errors and sets the exit status.

It imports little, so that Ctrl-C is handled from the first moment.
"""

from __future__ import annotations

import os
import sys

from sdlab.system import output
from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.system.files import reason
from sdlab.system.interrupts import STATUS, handle_ctrl_c


def main() -> None:
    """Run the command in `sys.argv`. The exit status is 0, that of the error, or 130 after Ctrl-C."""
    handle_ctrl_c()
    output.prepare()
    sys.exit(_status(sys.argv[1:]))


def _status(arguments: list[str]) -> int:
    try:
        from sdlab.commands.app import run

        status = run(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:  # which every process that torchrun started finds, so one of a machine prints it
        return output.print_error(error) if os.environ.get("LOCAL_RANK", "0") == "0" else error.status
    except SdlabError as error:
        return output.print_error(error)
    except KeyboardInterrupt:
        return STATUS
    except BrokenPipeError:  # as in `sdlab list samplers | head -1`
        return RunError.status
    except OSError as error:  # a folder that may not be read, for instance
        if error.filename is None:
            raise
        return output.print_error(RunError(f"{error.filename}: {reason(error)}"))


if __name__ == "__main__":
    main()
