# voicepool in a container. docs/scaling.md says how to run it; deploy/compose.yaml runs it beside
# Ollama, deploy/kubernetes/ in a cluster.
#
#   docker build -t voicepool .                                # Whisper, Kokoro, Ollama's client
#   docker build -t voicepool --build-arg ENGINES=embedded .   # no downloads, no GPU; small
#
# For a GPU the torch must be one whose CUDA the driver knows, and CUDA 12, because CTranslate2 asks
# for that one's libraries; torch brings them. The newest torch may have a newer CUDA: give the
# package index that pytorch.org/get-started names for CUDA 12:
#
#   docker build -t voicepool --build-arg TORCH_INDEX=URL .
#
# `docker run --gpus all IMAGE voicepool doctor --profile cuda` says whether it works.
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG ENGINES=models
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/voicepool
ENV PATH=/opt/voicepool/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# What changes rarely comes first: torch alone is gigabytes.
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY voicepool voicepool
RUN pip install --constraint constraints.txt ".[$ENGINES]"

FROM python:${PYTHON}
# Numbers, so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 voicepool \
    && useradd --uid 10001 --gid voicepool --create-home voicepool \
    && install --directory --owner voicepool --group voicepool /models
COPY --from=build /opt/voicepool /opt/voicepool
ENV PATH=/opt/voicepool/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    # Models, fetched once by `voicepool prefetch`: mount a volume here.
    HF_HOME=/models \
    # What the NVIDIA container runtime lets in: CUDA, and NVML for the budget.
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    # Without keys this address is refused: set VOICEPOOL_API_KEYS, or VOICEPOOL_NO_AUTH=true.
    VOICEPOOL_HOST=0.0.0.0
USER 10001:10001
WORKDIR /home/voicepool
EXPOSE 8000
# Alive, not ready: a full or draining server is to be left alone.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# It is process 1 and reaps what its workers leave; it needs no init. TERM drains it.
STOPSIGNAL SIGTERM
CMD ["voicepool", "start"]
