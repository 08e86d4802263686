"""`python -m benchmark` is llm-benchmark."""

import importlib.util
import sys

from gevent import monkey

monkey.patch_all()

# What requirements-serve.txt leaves out.
NEEDED = ("locust", "rich")
REFUSED = 2


def main() -> None:
    """The command, or one line about what a server that was installed alone has not."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        said = f"{' and '.join(missing)} cannot be imported: this was installed from requirements-serve.txt"
        print(f"llm-benchmark: {said}; requirements.txt has all that it needs", file=sys.stderr)
        sys.exit(REFUSED)
    from benchmark.cli import command

    command(prog_name="llm-benchmark")


if __name__ == "__main__":
    main()
