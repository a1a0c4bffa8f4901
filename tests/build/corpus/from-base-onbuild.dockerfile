FROM alpine AS base
ONBUILD COPY src /src
ONBUILD WORKDIR /src
FROM base AS child
RUN child
FROM child
RUN grandchild
