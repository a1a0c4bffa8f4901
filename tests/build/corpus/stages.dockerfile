ARG TAG=3
ARG UNSET
FROM alpine:$TAG AS base
ENV A=1
ARG SHARED=yes
ONBUILD RUN echo from base
CMD ["base"]
FROM golang AS build
RUN never needed twice
FROM scratch AS unneeded
COPY x /y
FROM BASE AS app
ENTRYPOINT run $A
COPY --from=Build /out /app/
COPY --from=1 /out2 /app/
COPY --from=busybox:1 /bin/sh /sh
RUN --mount=from=build,target=/b --mount=target=/src,source=src,rw --mount=type=cache,target=/c echo $SHARED
FROM app
LABEL end=yes
