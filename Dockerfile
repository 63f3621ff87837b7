# A server in a container: docs/guides/production.md.
FROM python:3.11-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY csrc ./csrc
COPY scripts/check_symbols.py ./scripts/
COPY src ./src
RUN python -m venv /opt/headrace \
 && /opt/headrace/bin/pip install --no-cache-dir ".[postgres,otel]"

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/headrace headrace \
 && install -d -o headrace -g headrace -m 0700 /var/lib/headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH HEADRACE_HOME=/var/lib/headrace HEADRACE_LOG_FORMAT=json
USER headrace
# Models, the database of keys and usage, callers' files.
VOLUME /var/lib/headrace
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["headrace"]
CMD ["serve", "--host", "0.0.0.0", "--require-key"]
