# Build with `docker build -t pushsvc .`; run with
#   docker run -p 8080:8080 -p 8081:8081 -v ./config.toml:/etc/pushsvc/config.toml:ro -v pushsvc:/var/lib/pushsvc pushsvc
# `docker stop -t 90` gives what is in flight the time to end, which may be more than Docker's 10 seconds; with
# `docker run --init` the processes that `docker exec` leaves behind are collected.
# Its files are never written: `--read-only` works, with the volume and `--tmpfs /tmp`. So does another user,
# `--user 4711:0`: group 0 may write the volume; the configuration must be readable.
# Another part: `docker run .. pushsvc dispatch`, with PUSHSVC_HEALTH_URL=http://127.0.0.1:9464/healthz.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/pushsvc
COPY requirements.txt ./
RUN /opt/pushsvc/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY pushsvc pushsvc
# What builds is of no use to what runs.
RUN /opt/pushsvc/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/pushsvc/bin/pip uninstall --yes flit_core pip

FROM python:3.13-slim
RUN groupadd --gid 10001 pushsvc \
    && useradd --uid 10001 --gid pushsvc --no-create-home --home-dir /var/lib/pushsvc --shell /usr/sbin/nologin pushsvc \
    && install --directory --owner=pushsvc --group=0 --mode=0775 /var/lib/pushsvc /etc/pushsvc
COPY --from=build /opt/pushsvc /opt/pushsvc
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pushsvc" \
      org.opencontainers.image.description="Self-hosted push-notification delivery: HTTP in, APNs and FCM out, nothing lost." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/pushsvc/bin:$PATH \
    HOME=/var/lib/pushsvc \
    PYTHONUNBUFFERED=1 \
    PUSHSVC_CONFIG=/etc/pushsvc/config.toml \
    PUSHSVC_HEALTH_URL=http://127.0.0.1:8080/healthz \
    PUSHSVC__SERVER__HOST=0.0.0.0 \
    PUSHSVC__LIVE__HOST=0.0.0.0 \
    PUSHSVC__METRICS__HOST=0.0.0.0 \
    PUSHSVC__STORE__DATA_DIR=/var/lib/pushsvc
USER 10001:10001
WORKDIR /var/lib/pushsvc
VOLUME /var/lib/pushsvc
# The API, the gateway, and /metrics of dispatch, feedback, jobs and live where they run by themselves.
EXPOSE 8080 8081 9464 9465 9466 9467
STOPSIGNAL SIGTERM
# bash speaks TCP by itself: a Python for each question would cost half a second of CPU.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bash", "-c", "\
    at=${PUSHSVC_HEALTH_URL#http://}; host=${at%%/*}; \
    exec 3<>/dev/tcp/${host%:*}/${host##*:} || exit 1; \
    printf 'GET /%s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' \"${at#*/}\" \"$host\" >&3; \
    read -r -t 4 _ status _ <&3; [ \"$status\" = 200 ]"]
ENTRYPOINT ["pushsvc"]
CMD ["up"]
