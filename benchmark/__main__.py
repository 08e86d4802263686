"""`python -m benchmark` is llm-benchmark."""

from gevent import monkey

monkey.patch_all()

from benchmark.cli import main

if __name__ == "__main__":
    main(prog_name="llm-benchmark")
