ARG VERSION=3 BASE
FROM alpine:${VERSION} AS Base
FROM --platform=$BUILDPLATFORM docker.io/library/alpine@sha256:0123 as build.1_x-y
FROM scratch
from base
