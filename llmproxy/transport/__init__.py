"""
HTTP/1.1 to the upstream: a transport adapter for `requests` on bare sockets and llhttp.

urllib3 under requests costs 240 µs of CPU a call, waits for a buffer to fill on bodies without chunks, and
escapes paths anew. This adapter costs an eighth, hands over what each read brought, sends the target as it is
and keeps order and repetition of response headers. It does what a proxy needs and nothing else: no redirects,
no cookies, no decoding. It knows nothing of OpenAI.

`request` is what to send, `connection` one connection, `tunnel` its way through an egress proxy, `pool` the idle
ones, `parser` llhttp's findings, `response` what is read, `adapter` sends one for the other. Import from the modules;
nothing is re-exported here.

Errors are those of requests: ConnectTimeout, ReadTimeout, ProxyError where an egress proxy refused, ConnectionError.
"""
