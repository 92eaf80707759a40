# The one image of all of Chirp's processes; docker-compose.yml gives each its command.
FROM python:3.11-slim

# The folders that volumes are mounted on: a new volume takes their owner.
RUN useradd --uid 10001 --create-home chirp \
    && install --directory --owner=chirp /var/lib/chirp/gateway \
    && install --directory --owner=chirp --mode=0700 /var/lib/chirp/keys /var/lib/chirp/certs

WORKDIR /app
# Before the rest: the packages are installed again only when their lock changes.
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock

COPY . .
# The compiler is for servers/one_pass.c alone.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --no-index -e . \
    && apt-get purge -y -qq --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && python -c 'from servers import _one_pass' \
    && python -m compileall -q domain eventlog gen mesh ops servers storage workers

USER chirp
CMD ["chirp", "--help"]
