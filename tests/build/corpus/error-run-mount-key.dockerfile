FROM alpine
RUN --mount=type=cache,traget=/a true
