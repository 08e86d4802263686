"""What the proxy costs on this machine, beside a bare Flask view: everything that `docs/benchmark.md` says."""
