# Several stages: by name, by number, an image, and triggers of a stage that another begins with.
FROM small AS base
ENV FROM_BASE=1
LABEL base=yes
USER ada
ONBUILD ENV TRIGGERED=1
ONBUILD COPY file /triggered
FROM base AS made
USER 0
RUN mkdir -p /out/sub && echo made >/out/sub/file && ln -s sub/file /out/link && chown 1000:10 /out/sub \
    && chmod 4711 /out/sub/file
FROM scratch AS never
COPY nothing /
FROM small
COPY --from=made /out /named
COPY --from=1 /out/link /numbered
COPY --from=made --chown=3:4 /out/sub/file /triggered /whose/
COPY --from=small /bin/busybox /image/
COPY --from=base /home /homes
RUN --mount=type=bind,from=made,source=/out,target=/m cp -a /m /mounted
