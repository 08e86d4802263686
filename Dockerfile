# The proxy's image, and with `--target test` its tests in that very image.
#
#   docker build -t llm-proxy .
#   docker build -t llm-proxy --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm .
#   docker build -t llm-proxy --build-arg EXTRAS="cloudwatch otel" .
#   docker build -t llm-proxy --build-arg REQUIREMENTS=requirements-serve.txt .     (without what llm-benchmark needs)
#
# No stage has a compiler: all comes as wheels. zope.interface alone has none for Alpine; without a compiler it
# installs as plain Python, and is taken so on every base.
ARG PYTHON_IMAGE=python:3.12-alpine

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS=requirements.txt
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY requirements*.txt ./
RUN python -m venv --without-pip /opt/venv \
 && set -- "${REQUIREMENTS}" \
 && for extra in ${EXTRAS}; do set -- "$@" "requirements-$extra.txt"; done \
 && for file in "$@"; do \
      python -m pip --python /opt/venv/bin/python install --require-hashes \
        --only-binary=:all: --no-binary=zope.interface -r "$file" || exit 1; \
    done
COPY . .
# Compiled here: whoever runs the image may not write in it.
RUN rm -rf tests docs deploy measure Makefile Dockerfile compose.yaml requirements* \
 && python -m compileall -q .

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 DATA_DIR=/app/data MAKE_ENCRYPTION_KEY=true
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
RUN install -d -o 10001 -g 10001 -m 700 data \
 && ln -s /app/llm-benchmark /app/llm-proxy /usr/local/bin/
VOLUME /app/data
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-IS", "-c", "\
import http.client, os, sys; \
proxy = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8080), timeout=4); \
proxy.request('GET', '/healthz'); \
sys.exit(proxy.getresponse().status != 200)"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]

FROM build AS test-build
COPY requirements-test.txt ./
RUN python -m pip --python /opt/venv/bin/python install --require-hashes \
      --only-binary=:all: --no-binary=zope.interface -r requirements-test.txt

# What runs, and its tests. Left out is what needs a browser, PostgreSQL or the server that `make run` starts: gunicorn
# alone serves here. The shell stays the first process, which has to bury those that outlive a killed parent.
FROM runtime AS test
COPY --from=test-build /opt/venv /opt/venv
COPY . .
ENV HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
HEALTHCHECK NONE
CMD ["sh", "-c", "python -m tests.side_by_side --sqlite --ignore=tests/browser \
  -m 'not browser and not postgres' -k 'not embedded'; exit $?"]

FROM runtime
