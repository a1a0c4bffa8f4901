FROM alpine
RUN --mount=type=cache,target=/a,size=1m make
