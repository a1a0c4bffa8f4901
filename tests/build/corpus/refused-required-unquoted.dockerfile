ARG VERSION=${VERSION:?give me a version}
FROM alpine
