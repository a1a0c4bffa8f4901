FROM alpine
MAINTAINER Jane Doe <jane@example.com>
WORKDIR /a b
USER ${U:-nobody}:nogroup
EXPOSE 80 443/tcp 8000-8010/UDP $P
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0 --start-interval=250ms --retries=3 CMD curl -f localhost || exit 1
HEALTHCHECK none
ONBUILD COPY --chown=1 . /src
onbuild   run make
