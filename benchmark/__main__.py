"""`python -m benchmark` is llm-benchmark."""

from gevent import monkey

monkey.patch_all()

from benchmark.cli import command

if __name__ == "__main__":
    command(prog_name="llm-benchmark")
