ARG PYTHON=3.13

# --- build: a wheel of the project in a virtual environment of its own ------------------------------------------------
FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/bgproxy
COPY pyproject.toml README.md LICENSE ./
COPY bgproxy ./bgproxy
RUN pip wheel --no-cache-dir --wheel-dir /wheels . \
    && /opt/bgproxy/bin/pip install --no-cache-dir --no-index --find-links /wheels bgproxy

# --- run: no compiler, no sources, no root ----------------------------------------------------------------------------
FROM python:${PYTHON}-slim
RUN groupadd --system --gid 10001 bgproxy \
    && useradd --system --uid 10001 --gid bgproxy --no-create-home --shell /usr/sbin/nologin bgproxy \
    && install -d -o bgproxy -g bgproxy -m 0700 /var/lib/bgproxy
COPY --from=build /opt/bgproxy /opt/bgproxy
ENV PATH=/opt/bgproxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/bgproxy
USER 10001:10001
# The live colour and its epoch outlive the container here.
VOLUME /var/lib/bgproxy
# Inside a container the configuration must listen on 0.0.0.0:8080; an admin API beyond loopback asks for tokens.
EXPOSE 8080 8081
# SIGTERM is the clean shutdown: give the container longer than server.timeouts.shutdown (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["bgproxy", "status"]
ENTRYPOINT ["bgproxy"]
CMD ["run", "-c", "/etc/bgproxy/bgproxy.toml"]
