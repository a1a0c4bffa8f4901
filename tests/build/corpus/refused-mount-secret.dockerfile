FROM alpine
RUN --mount=type=secret,required make
