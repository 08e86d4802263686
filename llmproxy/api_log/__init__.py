"""
The call log: one JSON line per proxied request, and what writes, reads and ships those lines.

`record` is the line's shape, `writer` appends it, `reader` walks the file from a saved position
(`position`) over rotated segments (`segment`, `retention`), `shipper` hands batches to a sink (`http_sink`,
`cloudwatch`) and sets aside what a receiver will never take (`dead_letters`). Alerts go through `http_receiver`, too.
Import from the modules;
nothing is re-exported here, so that the hot path loads the record and the writer only.
"""
