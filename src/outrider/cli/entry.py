"""The entry point of the program `outrider`.

Signals are handled before the imports that take long.
"""

from outrider.cli.ui import interrupt


def run() -> int:
    """Run the command line as a process of its own; return the exit code of `app.main`."""
    interrupt.exit_at_once()
    from outrider.cli.ui import streams

    streams.prepare()
    from outrider.cli.app import main

    code = main()
    if code in interrupt.EXIT_CODES:
        interrupt.leave(code)
    return code
