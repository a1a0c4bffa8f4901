FROM alpine
RUN --mount=type=chace,target=/a make
